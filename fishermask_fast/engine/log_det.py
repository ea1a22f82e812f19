"""Where log det M is to rise, not tr(M^-1 F) to fall: what a pick changes, and M without F.

    A_s = I +- K,  K = V_s M^-1 V_s^T = Q diag(lambda) Q^T,  U = M^-1 V_s^T Q (1 +- lambda)^-1/2
    change(s) = sum_i log(1 +- lambda_i),   M^-1 <- M^-1 -+ U U^T

F plays no part, so that there are no G and no W. The objective is -log det M, which falls.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fishermask_fast.engine.directions import Directions, Update
from fishermask_fast.engine.problem import ILL_CONDITIONED, Problem, Roots, SetUp
from fishermask_fast.factors import GradientFactors


class LogDetProblem(Problem):
    """What is minimised, -log det M; `fisher` is empty, (0, k)."""

    def set_up(self, included: GradientFactors | None, safe: bool) -> SetUp:
        """M^-1 with `included` in M; see Problem."""
        none = self.fisher
        eye = torch.eye(self.k, dtype=torch.float64, device=self.device)
        if self.trivial(included) and not safe:
            return SetUp(eye / self.lamb, none, -self.k * math.log(self.lamb))
        m = self.information(included)
        if safe or float(m.diagonal().max()) > ILL_CONDITIONED * self.lamb:
            root = torch.linalg.solve_triangular(self.factor(m, included), eye, upper=True)
            objective = 2 * float(root.diagonal().abs().log().sum())
            inverse, roots = root @ root.T, Roots(root, none, none[:, 0])
            return SetUp(inverse, none, objective, roots, *self.told(m, inverse))
        factor = self.cholesky(m)
        objective = -2 * float(factor.diagonal().log().sum())
        return SetUp(torch.cholesky_inverse(factor).contiguous(), none, objective)


class LogDetDirections(Directions):
    """Updates of samples during such a selection; see Directions."""

    def updates(self, factors: GradientFactors, slots: Tensor, indices: list[int]) -> list[Update]:
        """The updates of some samples after the picks added so far; see Directions."""
        rows = factors[slots].to(dtype=torch.float64).dense() * self._scale  # (n, r, k)
        inverse = self._times_inverse(rows.flatten(0, 1)).view_as(rows)
        inner = inverse @ rows.mT
        values, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
        # Below what it can be: rounding, where a removal leaves M singular.
        shares = (self._sign * values).clamp_(min=-1.0)
        changes = shares.log1p().sum(1).tolist()
        found = []
        for at, index in enumerate(indices):
            basis, first = self.basis_of(values[at], vectors[at])
            u = basis[:, first:].T @ inverse[at]
            found.append(Update(index, changes[at], rows[at], u, u[:, :0]))
        return found

    def base(self, factors: GradientFactors, slot: Tensor, lamb: float) -> None:
        """None: what tells near copies apart is known of tr(A^-1 B) alone."""

    def _fold(self) -> None:
        waiting = sum(self._ranks)
        u = self._u[:waiting]
        self._inverse.addmm_(u.T, u, alpha=-self._sign)
        self._ranks.clear()
