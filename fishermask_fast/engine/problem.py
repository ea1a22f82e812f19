"""The problem that a selection solves: the matrices of the objective tr(M^-1 F).

M = lamb I + F_L n_L / (n_L + K) + the picks' scale^2 V_x^T V_x,  scale^2 = K / (n_L + K)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fishermask_fast.factors import GradientFactors

# From here on (largest entry of M over lamb) a set-up takes the safe form: what products with M^-1
# lose, a rounding error times M's condition, must stay below what is called a tie.
ILL_CONDITIONED = 1e5


class Roots(NamedTuple):
    """M^-1 = X X^T and G = S diag(signs) S^T.

    V M^-1 V^T = (V X) (V X)^T and V G V^T = (V S) diag(signs) (V S)^T then have rounding errors
    that grow with the root of M's condition, where products with M^-1 and G lose all of it.
    """

    x: Tensor  # (k, k)
    s: Tensor  # (k, k) M^-1 F^(1/2)
    signs: Tensor  # (k,) of F's eigenvalues


class SetUp(NamedTuple):
    """What a selection knows of M."""

    inverse: Tensor  # (k, k) M^-1
    double: Tensor  # (k, k) G = M^-1 F M^-1
    objective: float  # tr(M^-1 F)
    roots: Roots | None = None  # in the safe form


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

    def set_up(self, included: GradientFactors | None, safe: bool) -> SetUp:
        """M^-1 and G with `included` in M.

        Args:
            included: samples in M, None for none.
            safe: whether to use the safe form whatever M is like.

        Raises:
            ValueError: M is not positive definite.
        """
        k = len(self.fisher)
        if self.trivial(included) and not safe:
            eye = torch.eye(k, dtype=torch.float64, device=self.fisher.device)
            inverse, double = eye / self.lamb, self.fisher / self.lamb / self.lamb
            return SetUp(inverse, double, float(self.fisher.trace()) / self.lamb)
        m = self.information(included)
        if safe or float(m.diagonal().max()) > ILL_CONDITIONED * self.lamb:
            return self._safe_set_up(m, included)
        inverse = torch.cholesky_inverse(self._cholesky(m)).contiguous()
        # Both triangles: what a product's rounding leaves is damped by M^-1 on its left alone, and
        # the mirror image of a triangle would put it on the side that damps nothing.
        double = inverse @ (self.fisher @ inverse)
        double = double.add_(double.T.clone()).mul_(0.5)
        return SetUp(inverse, double, float((inverse * self.fisher).sum()))

    def _cholesky(self, m: Tensor) -> Tensor:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(m)
        if int(failed):
            raise ValueError(
                "lamb I + labeled_fisher n_labeled / (n_labeled + n_select) + V^T V of the picks "
                "must be positive definite in float64: labeled_fisher has a negative eigenvalue, "
                f"or lamb = {self.lamb:g} is too small against it and the gradients"
            )
        return factor

    def _safe_set_up(self, m: Tensor, included: GradientFactors | None) -> SetUp:
        """By square roots, whose rounding errors grow with the root of M's condition alone."""
        if self.labeled_fisher is None:
            k = len(self.fisher)
            factor = torch.eye(k, dtype=torch.float64, device=m.device).mul_(self.lamb**0.5)
        else:
            factor = self._cholesky(self.information(None)).T
        if included is not None:
            # Forming V^T V would round lamb away.
            rows = included.to(dtype=torch.float64).dense().flatten(0, 1) * self.scale
            factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
        eye = torch.eye(len(m), dtype=torch.float64, device=m.device)
        root = torch.linalg.solve_triangular(factor, eye, upper=True)
        values, vectors = torch.linalg.eigh(self.fisher)
        half = root.T @ (vectors * values.abs().sqrt())  # X^T F^(1/2)
        signs = values.sign()
        objective = float((half.square() * signs).sum())
        double_root = root @ half
        roots = Roots(root, double_root, signs)
        return SetUp(root @ root.T, (double_root * signs) @ double_root.T, objective, roots)
