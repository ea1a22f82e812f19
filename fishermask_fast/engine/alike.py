"""Which of many candidates that are nearly copies of one another can still win.

For a sample x = b + D near a base b, with Y = V_b M^-1, Z = V_b G, A = I + Y V_b^T and H = Z V_b^T,
the score tr(A_x^-1 H_x) is that of b and a slope, exact but for squares of D:

    score(x) = score(b) + 2 <D, A^-1 Z - A^-1 H A^-1 Y> + rest
    |rest| <= |D|^2 (|G| + |H|_A / lamb) + e j + e^2 / (1 - e) (|H|_A + j)
    e = 2 |D| |Y| + |D|^2 / lamb,   j = 2 |D| |Z| + |D|^2 |G|,   |H|_A = tr |A^-1/2 H A^-1/2|

since A >= I and M >= lamb I. One product of M^-1 and G with the base's rows then tells hundreds of
copies apart, where each would need its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.engine.precision import TIE
from fishermask_fast.factors import GradientFactors

# Numbers of the candidates' rows at work.
_CHUNK_NUMBERS = 2**22
# What rounding leaves in a slope, as a share of |D| |slope|.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Base:
    """A sample that others are compared with.

    Attributes:
        rows: (r, k) V_b.
        y: (r, k) V_b M^-1.
        z: (r, k) V_b G.
        double_norm: at least the largest eigenvalue of G, by size.
        lamb: at most the smallest eigenvalue of M.
    """

    rows: Tensor
    y: Tensor
    z: Tensor
    double_norm: float
    lamb: float

    def scores(self, factors: GradientFactors, scale: float) -> tuple[Tensor, Tensor]:
        """Scores of samples beside the base's own, and how far off each may be, (n,) each."""
        r, k = self.rows.shape
        h = self.z @ self.rows.T
        a = self.y @ self.rows.T
        values, vectors = torch.linalg.eigh((a + a.T) / 2)
        root = vectors * (1 + values).rsqrt()  # A^-1 = root root^T
        inner = root.T @ ((h + h.T) / 2) @ root
        size = float(torch.linalg.eigvalsh(inner).abs().sum())
        slope = 2 * root @ (root.T @ self.z - inner @ (root.T @ self.y))
        score = float(inner.trace())
        found, rests = [], []
        for _, chunk in factors.chunks(max(1, _CHUNK_NUMBERS // (r * k))):
            change = chunk.to(dtype=torch.float64).dense() * scale - self.rows
            square = change.square().sum((1, 2))
            length = square.sqrt()
            e = 2 * length * self.y.norm() + square / self.lamb
            j = 2 * length * self.z.norm() + square * self.double_norm
            rest = square * (self.double_norm + size / self.lamb) + e * j
            rest += e.square() / (1 - e) * (size + j) + _ROUNDING * length * slope.norm()
            found.append(score + (change * slope).sum((1, 2)))
            rests.append(rest.masked_fill_(e >= 0.5, torch.inf))
        return torch.cat(found), torch.cat(rests)


def may_win(scores: Tensor, rests: Tensor, doubt: float) -> Tensor:
    """Places, ascending, of those that may win: the best, and the lowest place that ties with it.

    Args:
        scores: (n,), each off by at most as much as `rests` says.
        rests: (n,), infinite where nothing is known.
        doubt: the relative difference below which scores are not told apart; TIE or more.
    """
    least = (scores - rests).nan_to_num(nan=-torch.inf)
    top = least.argmax()
    best = least[top]
    if not bool(best.isfinite()):
        return torch.arange(len(scores), device=scores.device)
    near = ~(best - (scores + rests) > doubt * best.abs())
    tied = (scores + rests).max() - least <= TIE / 2 * best.abs()
    places = near.nonzero().squeeze(1)
    first = tied.nonzero().squeeze(1)[:1]
    if len(first):
        unclear = places[places < first]
        places = torch.cat([unclear, first, top[None]]).unique()
    return places
