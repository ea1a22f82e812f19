"""The selection in arithmetic of more than 60 digits, which float64 is held to.

    score(x) = tr(V_x G V_x^T A_x^-1),   A_x = I +- V_x M^-1 V_x^T,   G = M^-1 F M^-1

with M^-1 and G from M itself at every step. Numbers are Python's integers, in units of 2^-BITS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Behind the point. M^-1 and G go up to 1e28 where lamb is 1e-14: 60 digits and more are left.
BITS = 256

Matrix = NDArray[Any]


@dataclass
class Exact:
    """A selection's steps: picks, then removals.

    Attributes:
        steps: the sample of each.
        changes: by how much each lowers tr(M^-1 F), negative for removals.
        gaps: how far, relative to its own, the next best score lies behind.
        objective: tr(M^-1 F) before the first step.
        left: tr(M^-1 F) after each.
        n_forward: how many steps are picks.
    """

    steps: list[int] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    objective: float = 0.0
    left: list[float] = field(default_factory=list)
    n_forward: int = 0

    @property
    def kept(self) -> list[int]:
        dropped = set(self.steps[self.n_forward :])
        return [i for i in self.steps[: self.n_forward] if i not in dropped]


def select(
    gradients: Tensor,  # (N, r, k) float64
    n_select: int,
    fisher: Tensor,  # (k, k) float64
    labeled_fisher: Tensor | None = None,
    *,
    lamb: float,
    n_labeled: int = 0,
    backward_steps: int = 0,
) -> Exact:
    """The published selection of these very float64 numbers."""
    total = n_labeled + n_select
    v, f = fixed(gradients), fixed(fisher)
    m = _eye(len(f)) * int(Fraction(lamb) * 2**BITS) >> BITS
    if labeled_fisher is not None:
        m = m + fixed(labeled_fisher) * n_labeled // total
    found = Exact(objective=_objective(m, f))
    left = list(range(len(v)))
    found.n_forward = min((1 + backward_steps) * n_select, len(v))
    share = (n_select, total)
    while len(found.steps) < found.n_forward:
        m = m + _gram(v[_step(found, left, v, m, f, share, 1)], share)
        found.left.append(_objective(m, f))
    left = list(found.steps)
    while len(left) > n_select:
        m = m - _gram(v[_step(found, left, v, m, f, share, -1)], share)
        found.left.append(_objective(m, f))
    return found


def _step(
    found: Exact,
    left: list[int],
    v: Matrix,
    m: Matrix,
    f: Matrix,
    share: tuple[int, int],
    sign: int,
) -> int:
    """Take the best of those left."""
    precision = inverse(m)
    double = _times(_times(precision, f), precision)
    scores = []
    for at in left:
        y, z = _times(v[at], precision), _times(v[at], double)
        a = _eye(len(y)) + sign * (_times(y, v[at].T) * share[0] // share[1])
        b = _times(z, v[at].T) * share[0] // share[1]
        scores.append(sign * np.trace(_times(inverse(a), b)))
    order = sorted(range(len(left)), key=lambda i: scores[i], reverse=True)
    best = scores[order[0]]
    behind = Fraction(best - scores[order[1]], abs(best)) if len(order) > 1 and best else 1
    found.gaps.append(float(behind))
    found.changes.append(_number(best))
    found.steps.append(left.pop(order[0]))
    return found.steps[-1]


def _objective(m: Matrix, f: Matrix) -> float:
    return _number(np.trace(_times(inverse(m), f)))


def fixed(tensor: Tensor) -> Matrix:
    """Float64 numbers, without rounding those of 1e-100 and more."""
    return np.vectorize(lambda x: int(Fraction(x) * 2**BITS), otypes=[object])(
        tensor.double().numpy()
    )


def inverse(matrix: Matrix) -> Matrix:
    """Of a positive definite one, by Gauss and Jordan."""
    n = len(matrix)
    work = np.concatenate([matrix, _eye(n)], axis=1)
    for i in range(n):
        work[i] = (work[i] << BITS) // work[i, i]
        others = np.arange(n) != i
        work[others] -= work[others, i, None] * work[i] >> BITS
    return work[:, n:]


def _eye(n: int) -> Matrix:
    return np.eye(n, dtype=int).astype(object) << BITS


def _gram(v: Matrix, share: tuple[int, int]) -> Matrix:
    return _times(v.T, v) * share[0] // share[1]


def _times(a: Matrix, b: Matrix) -> Matrix:
    product: Matrix = a @ b >> BITS
    return product


def _number(value: int) -> float:
    return float(Fraction(value, 2**BITS))
