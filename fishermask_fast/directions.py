"""What a single sample would change: its U and W, in float64, from M^-1 and G.

With Y = M^-1 V_s^T, Z = G V_s^T, K = V_s Y and H = V_s Z, all at the moment of the pick,

    A_s = I +- K = Q (1 +- diag(lambda)) Q^T,   L = Q (1 +- diag(lambda))^-1/2
    U = Y L,   W = Z L -+ U (L^T H L) / 2,   score(s) = +- tr(L^T H L)

where directions with lambda = 0, which change nothing, are left out of L. Inside a block M^-1 and G
stay what they were at its start, and the block's own picks come in by their U and W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.factors import GradientFactors

# A direction this small changes M, and so every score, by less than this share of itself.
_NEGLIGIBLE = 1e-13


@dataclass(frozen=True)
class Update:
    """What one pick (or removal) changes, and the score it wins with."""

    index: int
    score: float
    u: Tensor  # (k, q)
    w: Tensor  # (k, q)


@dataclass(frozen=True)
class _AtStart:
    """One sample against M^-1 and G as they were at the block's start."""

    rows: Tensor  # (r, k) V_s
    y: Tensor  # (k, r)
    z: Tensor  # (k, r)


class Directions:
    """Updates of samples during one block of picks.

    Args:
        factors: the candidates, V = scale * factors.
        scale: see `factors`.
        inverse: (k, k) M^-1 at the block's start.
        double: (k, k) G at the block's start.
        sign: 1 for picks, -1 for removals.
        capacity: the most columns that the block's U can come to.
    """

    def __init__(
        self,
        factors: GradientFactors,
        scale: float,
        inverse: Tensor,
        double: Tensor,
        sign: int,
        capacity: int,
    ) -> None:
        self._factors = factors
        self._scale = scale
        self._inverse = inverse
        self._double = double
        self._sign = sign
        k = inverse.shape[0]
        self._u = inverse.new_empty(k, capacity)
        self._w = inverse.new_empty(k, capacity)
        self._used = 0
        self._ranks: list[int] = []
        self._known: dict[int, _AtStart] = {}

    def fetch(self, indices: list[int]) -> None:
        """Take the products with M^-1 and G for several samples at once."""
        wanted = [index for index in indices if index not in self._known]
        if not wanted:
            return
        chosen = self._factors[torch.tensor(wanted, device=self._factors.device)]
        rows = chosen.to(dtype=torch.float64).dense() * self._scale
        y = chosen.times_transpose(self._inverse) * self._scale
        z = chosen.times_transpose(self._double) * self._scale
        for at, index in enumerate(wanted):
            self._known[index] = _AtStart(rows[at], y[at], z[at])

    def update(self, index: int) -> Update:
        """The update of sample `index` after the picks added so far."""
        self.fetch([index])
        start = self._known[index]
        y, z = start.y, start.z
        if self._used:
            u, w = self._u[:, : self._used], self._w[:, : self._used]
            p, r = start.rows @ u, start.rows @ w
            y = y - self._sign * (u @ p.T)
            z = z - self._sign * (u @ r.T + w @ p.T)
        inner = start.rows @ y
        eigenvalues, basis = torch.linalg.eigh((inner + inner.T) / 2)
        kept = eigenvalues > max(_NEGLIGIBLE, 1e-15 * float(eigenvalues[-1]))
        basis = basis[:, kept] * (1 + self._sign * eigenvalues[kept]).rsqrt()
        u = y @ basis
        half = basis.T @ (start.rows @ z) @ basis
        w = z @ basis - self._sign * (u @ (half + half.T)) / 4
        return Update(index, self._sign * float(half.trace()), u, w)

    def add(self, update: Update) -> None:
        """Count a pick: the samples after it see its update."""
        q = update.u.shape[1]
        self._u[:, self._used : self._used + q] = update.u
        self._w[:, self._used : self._used + q] = update.w
        self._used += q
        self._ranks.append(q)

    def columns(self, n_picks: int) -> tuple[Tensor, Tensor, list[int]]:
        """U, W of the first picks side by side, (k, sum of ranks) each, and their ranks."""
        ranks = self._ranks[:n_picks]
        width = sum(ranks)
        return self._u[:, :width], self._w[:, :width], ranks
