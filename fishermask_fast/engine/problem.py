"""The problem that a selection solves: the matrices of the objective tr(M^-1 F).

M = lamb I + F_L n_L / (n_L + K) + the picks' scale^2 V_x^T V_x,  scale^2 = K / (n_L + K)

or in sums, M = prior_precision I + n_L F_L + the picks' V_x^T V_x. That is (n_L + K) / K times the
first form with lamb = prior_precision K / (n_L + K) and K F_L in place of F_L: the same picks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fishermask_fast.factors import GradientFactors

# From here on (largest entry of M over lamb) a set-up takes the safe form: what products with M^-1
# lose, a rounding error times M's condition, must stay below what is called a tie.
ILL_CONDITIONED = 1e5


# Of the smallest scores whose digits are all there.
_LOG_TINY = math.log(1e-290)

_EPSILON = torch.finfo(torch.float64).eps
# Products that find a largest eigenvalue, to well within a half.
_POWERS = 8


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
    condition: float = 1.0  # of M, about, in the safe form
    lost: float = 0.0  # the share of M's smallest eigenvalue that rounding M's entries may change


@dataclass(frozen=True)
class Problem:
    """What is minimised, and by how many picks; see the module."""

    fisher: Tensor  # (k, k) float64, F
    labeled_fisher: Tensor | None  # (k, k) float64, F_L
    lamb: float  # or, in sums, the prior precision
    n_labeled: int
    n_select: int
    in_sums: bool = False

    @property
    def k(self) -> int:
        """Masked parameters."""
        return self.fisher.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the matrices lie."""
        return self.fisher.device

    @property
    def prior(self) -> str:
        """What I is multiplied with, for messages."""
        return f"{'prior_precision' if self.in_sums else 'lamb'} = {self.lamb:g}"

    @property
    def scale(self) -> float:
        """What V is multiplied with, sqrt(K / (n_L + K)), or 1 in sums."""
        if self.in_sums:
            return 1.0
        return float((self.n_select / (self.n_labeled + self.n_select)) ** 0.5)

    def information(self, included: GradientFactors | None) -> Tensor:
        """M with the samples `included` in it, (k, k)."""
        m = torch.eye(self.k, dtype=torch.float64, device=self.device).mul_(self.lamb)
        if self.labeled_fisher is not None:
            total = 1 if self.in_sums else self.n_labeled + self.n_select
            m.add_(self.labeled_fisher, alpha=self.n_labeled / total)
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
        inverse = torch.cholesky_inverse(self.cholesky(m)).contiguous()
        # Both triangles: what a product's rounding leaves is damped by M^-1 on its left alone, and
        # the mirror image of a triangle would put it on the side that damps nothing.
        double = inverse @ (self.fisher @ inverse)
        double = double.add_(double.T.clone()).mul_(0.5)
        return SetUp(inverse, double, float((inverse * self.fisher).sum()))

    def cholesky(self, m: Tensor) -> Tensor:
        """The lower factor of M.

        Raises:
            ValueError: M is not positive definite.
        """
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(m)
        if int(failed):
            raise ValueError(
                f"{self._m_in_words} + V^T V of the picks "
                "must be positive definite in float64: labeled_fisher has a negative eigenvalue, "
                f"or {self.prior} is too small against it and the gradients"
            )
        return factor

    def overflow(self) -> ValueError:
        """The error of scores that overflow."""
        return ValueError(
            "scores overflow float64: the gradients or fisher are too large against "
            f"{self.prior}; scale them down or raise {self.prior.split()[0]}"
        )

    def too_large(self) -> str:
        """What to do where rounding decides: V M^-1 V^T is too large."""
        return (
            f"the gradients or fisher are too large against {self.prior}, and picks may differ "
            "from those of exact arithmetic; scale the gradients (for a head: its inputs, each "
            f"column to a size near 1) down or raise {self.prior.split()[0]}"
        )

    def too_small(self) -> str:
        """What to do where scores vanish."""
        return (
            f"the gradients or fisher are too small against {self.prior}, scores vanish, and picks "
            "may differ from those of exact arithmetic; scale the gradients up or lower "
            f"{self.prior.split()[0]}"
        )

    def underflows(self, rows: Tensor) -> bool:
        """Whether no score of rows V, (r, k), can be told from zero, though none need be zero.

        score <= |V|^2 |F| / lamb^2, in logarithms, as powers of what is small vanish themselves.
        """
        sizes = [float(part.abs().max()) for part in (rows, self.fisher) if part.numel()]
        if len(sizes) < 2 or min(sizes) == 0:
            return False
        v, f = (math.log(size) for size in sizes)
        return 2 * v + f - 2 * math.log(self.lamb) < _LOG_TINY

    @property
    def _m_in_words(self) -> str:
        if self.in_sums:
            return "prior_precision I + labeled_fisher n_labeled"
        return "lamb I + labeled_fisher n_labeled / (n_labeled + n_select)"

    def factor(self, m: Tensor, included: GradientFactors | None) -> Tensor:
        """An upper triangular R with R^T R = M, by rows, as forming V^T V would round lamb away."""
        if self.labeled_fisher is None:
            factor = torch.eye(self.k, dtype=torch.float64, device=m.device).mul_(self.lamb**0.5)
        else:
            factor = self.cholesky(self.information(None)).T
        if included is not None:
            rows = included.to(dtype=torch.float64).dense().flatten(0, 1) * self.scale
            factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
        return factor

    def _safe_set_up(self, m: Tensor, included: GradientFactors | None) -> SetUp:
        """By square roots, whose rounding errors grow with the root of M's condition alone."""
        factor = self.factor(m, included)
        eye = torch.eye(len(m), dtype=torch.float64, device=m.device)
        root = torch.linalg.solve_triangular(factor, eye, upper=True)
        values, vectors = torch.linalg.eigh(self.fisher)
        half = root.T @ (vectors * values.abs().sqrt())  # X^T F^(1/2)
        signs = values.sign()
        objective = float((half.square() * signs).sum())
        double_root = root @ half
        roots = Roots(root, double_root, signs)
        inverse, double = root @ root.T, (double_root * signs) @ double_root.T
        return SetUp(inverse, double, objective, roots, *self.told(m, inverse))

    def told(self, m: Tensor, inverse: Tensor) -> tuple[float, float]:
        """SetUp's condition of M, and what is lost of it."""
        condition = _largest(m) * _largest(inverse)
        # F_L comes as a matrix; without it M is made from rows, and keeps all of lamb.
        return condition, 0.0 if self.labeled_fisher is None else _EPSILON * condition


def rounding(condition: float) -> float:
    """The relative rounding error of scores where M has such a condition.

    That of R with R^T R = M, made from rows, and of its inverse grows with R's condition, the root
    of M's.
    """
    return _EPSILON * math.sqrt(condition)


def _largest(matrix: Tensor) -> float:
    """About the largest eigenvalue of a positive definite matrix, and no more than that."""
    vector = matrix[:, matrix.diagonal().argmax()]
    for _ in range(_POWERS):
        vector = matrix @ (vector / vector.norm())
    return float(vector.norm())
