"""What a single sample would change: its U and W, in float64, from M^-1 and G.

With Y = V_s M^-1, Z = V_s G, K = Y V_s^T and H = Z V_s^T, all at the moment of the pick, and the
transposes of U and W as rows,

    A_s = I +- K = Q (1 +- diag(lambda)) Q^T,   L = Q (1 +- diag(lambda))^-1/2
    U^T = L^T Y,   W^T = L^T Z -+ (L^T H L) U^T / 2,   score(s) = +- tr(L^T H L)

where directions of a lambda that changes no other score are left out of U and W, though not of the
score: all that small gradients win lies there. Where there are none, Cholesky's L, which needs no
eigenvectors, does as well. M^-1 and G are brought up to date only now
and then, many picks at once; the picks since then come in by their U and W:

    Y = Y_0 -+ P U^T,   Z = Z_0 -+ (R U^T + P W^T),   P = V_s U,  R = V_s W
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.engine.alike import Base
from fishermask_fast.engine.problem import SetUp
from fishermask_fast.engine.state import Updates
from fishermask_fast.factors import GradientFactors
from fishermask_fast.ops import selection as ops
from fishermask_fast.triangles import add_to_lower, mirror_lower

# A direction this small changes M, and so every other score, by less than this share of itself.
_NEGLIGIBLE = 1e-13
# An eigenvalue below this share of the largest is what rounding left of zero.
_ROUNDING = 1e-15
_SMALLEST = 1e-16
# Columns of U that wait before M^-1 and G are brought up to date: fewer cost more products with
# these, more cost longer corrections.
_MAX_WAITING = 64


@dataclass(frozen=True)
class Update:
    """What one pick (or removal) changes, and the score it wins with."""

    index: int
    change: float  # by how much the objective falls
    rows: Tensor  # (r, k) V_s
    u: Tensor  # (q, k) U^T
    w: Tensor  # (q, k) W^T
    gain: float = 1.0  # what the change is multiplied with

    @property
    def score(self) -> float:
        """What the sample is compared by."""
        return self.gain * self.change

    def alone(self) -> Updates:
        """For whoever takes many."""
        return Updates(self.u, self.w, [len(self.u)])


class Directions:
    """Updates of samples during a selection.

    Args:
        n_rows: rows r of each sample's V.
        scale: V = scale * factors.
        start: M^-1 and G, which are changed in place.
        sign: 1 for picks, -1 for removals.
        block: the most picks that are added between two calls of `begin`.
        fisher: (k, k) F for the careful form, which takes U^T F U itself, not from G, and leaves
            M^-1, or its root, as it is: all picks wait. None where G will do.
    """

    def __init__(
        self,
        n_rows: int,
        scale: float,
        start: SetUp,
        sign: int,
        block: int,
        fisher: Tensor | None = None,
    ) -> None:
        self._scale = scale
        self._inverse = start.inverse
        self._double = start.double
        self._root = None if start.roots is None else start.roots.x
        self._fisher = fisher
        self._sign = sign
        k = len(start.inverse)
        self._most_waiting = _MAX_WAITING if fisher is None else max(_MAX_WAITING, k)
        self._u = start.inverse.new_empty(self._most_waiting + block * n_rows, k)
        self._w = self._u.new_empty(len(self._u), len(start.double))
        self._ranks: list[int] = []
        self._begun = 0

    @property
    def full(self) -> bool:
        """Whether so many picks wait that a new set-up is due."""
        return self._fisher is not None and sum(self._ranks) > self._most_waiting

    def matrices(self) -> tuple[Tensor, Tensor]:
        """M^-1 and G after all picks that were added; not in the careful form."""
        self._fold()
        return mirror_lower(self._inverse), mirror_lower(self._double)

    def begin(self) -> None:
        """Begin a block; bring M^-1 and G up to date where enough has come together."""
        if self._fisher is None and sum(self._ranks) > self._most_waiting:
            self._fold()
        self._begun = len(self._ranks)

    def products(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """V M^-1 and V G of rows V, (n, k) each, after the picks added so far."""
        # Whatever was folded into them is in the lower triangles.
        y, z = rows @ mirror_lower(self._inverse), rows @ mirror_lower(self._double)
        waiting = sum(self._ranks)
        u, w = self._u[:waiting], self._w[:waiting]
        p, q = rows @ u.T * -self._sign, rows @ w.T * -self._sign
        return y.addmm_(p, u), z.addmm_(q, u).addmm_(p, w)

    def base(self, factors: GradientFactors, slot: Tensor, lamb: float) -> Base | None:
        """A sample to compare others with, at `slot` (1,) in `factors`; None where G is not known.

        Args:
            factors: of the sample and others.
            slot: its place.
            lamb: at most the smallest eigenvalue of M.
        """
        if self._fisher is not None or self._sign < 0:
            return None
        rows, y, z = (part[0] for part in self._inverse_products(factors, slot))
        waiting = sum(self._ranks)
        u, w = self._u[:waiting], self._w[:waiting]
        # What was folded into G is in its lower triangle.
        norm = 2**0.5 * float(self._double.tril().norm()) + 2 * float(u.norm() * w.norm())
        return Base(rows, y, z, norm, lamb)

    def _inverse_products(
        self, factors: GradientFactors, slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V, V M^-1 and V G of some samples, after the picks added so far; (n, r, k) each."""
        waiting = sum(self._ranks)
        return ops.inverse_products(
            factors,
            slots,
            self._inverse,
            self._double,
            self._u[:waiting],
            self._w[:waiting],
            scale=self._scale,
            sign=self._sign,
        )

    def _times_inverse(self, rows: Tensor) -> Tensor:
        """V M^-1 of rows V in the careful form."""
        start = rows @ self._inverse if self._root is None else rows @ self._root @ self._root.T
        u = self._u[: sum(self._ranks)]
        return torch.addmm(start, rows @ u.T, u, alpha=-self._sign)

    def updates(self, factors: GradientFactors, slots: Tensor, indices: list[int]) -> list[Update]:
        """The updates of some samples after the picks added so far.

        Args:
            factors: of these samples and others.
            slots: (n,) int64, places in `factors`.
            indices: what the updates call each sample.
        """
        if self._fisher is not None:
            rows = factors[slots].to(dtype=torch.float64).dense() * self._scale
            return [self._careful(*parts) for parts in zip(indices, rows, strict=True)]
        products = self._inverse_products(factors, slots)
        if products[0].device.type != "cpu":
            return [self._update(*parts) for parts in zip(indices, *products, strict=True)]
        u, w, scores = ops.pick_update(*products, sign=self._sign, negligible=_NEGLIGIBLE)
        return [
            self._update(index, *(part[at] for part in products))
            if score == -math.inf
            else Update(index, score, products[0][at], u[at], w[at])
            for at, (index, score) in enumerate(zip(indices, scores.tolist(), strict=True))
        ]

    def _careful(self, index: int, rows: Tensor) -> Update:
        """The update of a sample from U^T F U, whose small parts no large ones cover."""
        assert self._fisher is not None
        y = self._times_inverse(rows)
        eigenvalues, vectors = torch.linalg.eigh(y @ rows.T)
        basis, first = self.basis_of(eigenvalues, vectors)
        # Where M's condition is large, F finds as much in what rounding left of a direction.
        real = int((eigenvalues <= _ROUNDING * eigenvalues[-1]).sum())
        u = basis.T @ y
        t = u @ self._fisher
        half = t @ u.T
        score = self._sign * float(half[real:, real:].trace())
        u, t, half = u[first:], t[first:], half[first:, first:]
        w = torch.addmm(self._times_inverse(t), half + half.T, u, alpha=-self._sign / 4)
        return Update(index, score, rows, u, w)

    def _update(self, index: int, rows: Tensor, y: Tensor, z: Tensor) -> Update:
        """The update of a sample, which may have directions that change nothing."""
        # No direction is rounding's here: what is large against M is scored in the careful form.
        basis, first = self.basis_of(*torch.linalg.eigh(y @ rows.T))
        half = basis.T @ (z @ rows.T) @ basis
        score = self._sign * float(half.trace())
        basis, half = basis[:, first:], half[first:, first:]
        u = basis.T @ y
        w = torch.addmm(basis.T @ z, half + half.T, u, alpha=-self._sign / 4)
        return Update(index, score, rows, u, w)

    def basis_of(self, eigenvalues: Tensor, basis: Tensor) -> tuple[Tensor, int]:
        """L, (r, r), and where the columns begin in it that change other scores.

        Args:
            eigenvalues: (r,) of V M^-1 V^T, ascending.
            basis: (r, r) its eigenvectors.
        """
        negligible = max(_NEGLIGIBLE, _ROUNDING * float(eigenvalues[-1]))
        # For a removal that would leave M singular, an eigenvalue of 1 or, by rounding, above.
        shares = (1 + self._sign * eigenvalues).clamp_(min=_SMALLEST)
        return basis * shares.rsqrt(), int((eigenvalues <= negligible).sum())

    def add(self, updates: Updates) -> None:
        """Count picks: the samples after them see their updates."""
        at, q = sum(self._ranks), len(updates.u)
        self._u[at : at + q] = updates.u
        self._w[at : at + q] = updates.w
        self._ranks.extend(updates.ranks)

    def keep(self, n_picks: int) -> None:
        """Forget all but the block's first picks."""
        del self._ranks[self._begun + n_picks :]

    def block(self, n_picks: int) -> Updates:
        """The updates of the block's first picks."""
        start = sum(self._ranks[: self._begun])
        ranks = self._ranks[self._begun : self._begun + n_picks]
        stop = start + sum(ranks)
        return Updates(self._u[start:stop], self._w[start:stop], ranks)

    def _fold(self) -> None:
        """M^-1 -+= U U^T, G -+= U W^T + W U^T for all picks that wait."""
        waiting = sum(self._ranks)
        if not waiting:
            return
        u, w = self._u[:waiting], self._w[:waiting]
        if u.device.type == "cpu":
            ops.fold_updates(self._inverse, self._double, u, w, sign=self._sign)
        else:
            add_to_lower(self._inverse, u, u, -self._sign)
            add_to_lower(self._double, torch.cat([u, w]), torch.cat([w, u]), -self._sign)
        self._ranks.clear()
