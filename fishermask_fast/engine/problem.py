"""The problem that a selection solves: the matrices of the objective tr(M^-1 F).

M = lamb I + F_L n_L / (n_L + K) + the picks' scale^2 V_x^T V_x,  scale^2 = K / (n_L + K)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.engine.directions import add_to_lower
from fishermask_fast.factors import GradientFactors


@dataclass(frozen=True)
class Problem:
    """What is minimised, and by how many picks; see the module."""

    fisher: Tensor  # (k, k) float64, F
    labeled_fisher: Tensor | None  # (k, k) float64, F_L
    lamb: float
    n_labeled: int
    n_select: int

    @property
    def scale(self) -> float:
        """What V is multiplied with, sqrt(K / (n_L + K))."""
        return float((self.n_select / (self.n_labeled + self.n_select)) ** 0.5)

    def information(self, included: GradientFactors | None) -> Tensor:
        """M with the samples `included` in it, (k, k)."""
        k = self.fisher.shape[0]
        m = torch.eye(k, dtype=torch.float64, device=self.fisher.device).mul_(self.lamb)
        if self.labeled_fisher is not None:
            m.add_(self.labeled_fisher, alpha=self.n_labeled / (self.n_labeled + self.n_select))
        if included is not None:
            m.add_(included.fisher(), alpha=self.scale**2 * len(included))
        return m

    def trivial(self, included: GradientFactors | None) -> bool:
        """Whether M = lamb I."""
        return self.labeled_fisher is None and included is None

    def inverses(self, included: GradientFactors | None) -> tuple[Tensor, Tensor]:
        """M^-1 and G = M^-1 F M^-1, of which the lower triangle counts, with `included` in M.

        Raises:
            ValueError: M is not positive definite.
        """
        if self.trivial(included):
            eye = torch.eye(len(self.fisher), dtype=torch.float64, device=self.fisher.device)
            return eye / self.lamb, self.fisher / self.lamb**2
        factor, failed = torch.linalg.cholesky_ex(self.information(included))
        if int(failed):
            raise ValueError(
                "lamb I + labeled_fisher n_labeled / (n_labeled + n_select) + V^T V of the picks "
                "must be positive definite in float64: labeled_fisher has a negative eigenvalue, "
                f"or lamb = {self.lamb:g} is too small against it and the gradients"
            )
        inverse = torch.cholesky_inverse(factor).contiguous()
        double = torch.zeros_like(inverse)
        add_to_lower(double, inverse, self.fisher @ inverse, 1.0)
        return inverse, double
