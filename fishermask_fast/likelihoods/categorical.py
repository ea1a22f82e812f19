"""One of C classes: factors of a softmax's Fisher information in its logits.

For p = softmax(z), the r rows R = L^T of each sample satisfy

    L L^T = diag(p) - p p^T            (weighting "fisher")
    L L^T = (I - p 1^T)(I - 1 p^T)     (weighting "none": the rows are grad_z log p_c)

so that V_x = L_x^T J_x, J_x the Jacobian of the logits. Any L with the same product serves: C rows
as written, C-1 rows of the Cholesky factor, or fewer of the largest eigenvectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.likelihoods.likelihood import OTHER_SHAPES, check_options

_BISECTIONS = 10
_NEWTON_STEPS = 7


@dataclass(frozen=True)
class Categorical:
    """Logits (N, C) of C >= 2 classes that exclude each other."""

    name: str = "categorical"

    def check_options(self, weighting: str, rank: int | None) -> None:
        check_options(weighting, rank)

    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) == 1 or (len(shape) == 2 and shape[1] < 2):
            raise ValueError(
                "the model must tell at least two classes apart; its logits are "
                f'{tuple(shape)}. A single output takes likelihood="bernoulli" where a sigmoid '
                'follows, and "gaussian" in regression'
            )
        if len(shape) != 2:
            dense = {3: "each token or place", 4: "each pixel, as segmentation has them"}
            found = f" (outputs for {dense[len(shape)]})" if len(shape) in dense else ""
            raise ValueError(
                f"the model's logits must have shape (N, C); got {tuple(shape)}{found}. "
                f"{OTHER_SHAPES}"
            )

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        return make_rows(outputs, weighting, rank)

    def n_uniform(self, outputs: Tensor) -> int:
        return 1

    def sampled_rows(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        return sampled_rows(outputs, uniform[:, 0])

    def identity(self, samples: Iterable[Tensor]) -> str:
        return self.name


def make_rows(logits: Tensor, weighting: str = "fisher", rank: int | None = None) -> Tensor:
    """The rows L_x^T of every sample, (N, r, C) in float64.

    Args:
        logits: (N, C), any floating dtype.
        weighting: "fisher" or "none", as above.
        rank: None: the fewest exact rows, C-1 with weighting "fisher" and C with "none"; C: one
            row a class; C-1: the exact Cholesky rows; less: the rows sqrt(lambda_i) u_i^T of the
            `rank` largest eigenvalues, an approximation.

    Raises:
        ValueError: rank above the number of classes.
    """
    p = logits.double().softmax(1)
    n_classes = p.shape[1]
    if rank is not None and rank > n_classes:
        raise ValueError(f"rank must be at most the number of classes {n_classes}; got {rank}")
    if rank is None and weighting == "fisher":
        rank = max(n_classes - 1, 1)
    if rank is None or rank == n_classes:
        rows = torch.eye(n_classes, dtype=p.dtype, device=p.device) - p[:, None, :]
        return p.sqrt()[:, :, None] * rows if weighting == "fisher" else rows
    if rank == n_classes - 1:
        return cholesky_rows(p)
    return leading_rows(p, rank)


def cholesky_rows(p: Tensor) -> Tensor:
    """Row j: sqrt(p_j s_{j+1} / s_j) (e_j - sum_{i>j} p_i / s_{j+1} e_i), s_j = sum_{i>=j} p_i.

    Exact with C-1 rows: (N, C) probabilities to (N, C-1, C).
    """
    tails = p.flip(1).cumsum(1).flip(1)
    s, after = tails[:, :-1], tails[:, 1:]
    # Where a tail vanishes its row does too; dividing by one keeps 0 / 0 out.
    share = p[:, :-1] / torch.where(s > 0, s, 1)
    scale = torch.sqrt(share * after)
    ratios = p[:, None, :] / torch.where(after > 0, after, 1)[:, :, None]
    rows = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[:-1] - ratios.triu(1)
    return scale[:, :, None] * rows


def leading_rows(p: Tensor, rank: int) -> Tensor:
    """sqrt(lambda_i) u_i^T for the `rank` largest eigenpairs of diag(p) - p p^T, (N, rank, C).

    The matrix is a diagonal less a rank-one term, so with p sorted downwards its i-th eigenvalue
    is the root in (p_{i+1}, p_i) of the secular equation

        g(lambda) = sum_j p_j / (p_j - lambda) = 0,    u_j ~ p_j / (p_j - lambda),

    found for all samples at once by a few bisections and then Newton's method on mu g, mu the
    distance from the nearer pole: O(N rank C) where a dense solver takes O(N C^3).
    """
    sorted_p, order = p.sort(1, descending=True)
    n_classes = p.shape[1]
    # Equal probabilities would share an eigenvalue; a relative step of a few ulps parts them.
    index = torch.arange(n_classes, device=p.device, dtype=p.dtype)
    poles = sorted_p * (1 - 4 * torch.finfo(p.dtype).eps * index)
    upper, lower = poles[:, :rank], poles[:, 1 : rank + 1]
    gaps = upper - lower
    # The distance mu from the nearer pole keeps p_j - lambda accurate where lambda is next to it.
    middle_value = _secular(poles, upper, 0.5 * gaps)
    near_upper = middle_value > 0
    origin = torch.where(near_upper, upper, lower)
    low = torch.where(near_upper, 0, -0.5 * gaps)
    high = torch.where(near_upper, 0.5 * gaps, 0)
    for _ in range(_BISECTIONS):
        mu = 0.5 * (low + high)
        below = _secular(poles, origin, mu) > 0
        low, high = torch.where(below, low, mu), torch.where(below, mu, high)
    mu = 0.5 * (low + high)
    for _ in range(_NEWTON_STEPS):
        # mu g = sum_j p_j t_j, t_j = mu / (p_j - lambda), has no pole at mu = 0, so that the steps
        # mu <- mu (1 - sum p t / sum p t (1 - t)) keep the relative accuracy of the smallest mu.
        ratios = mu[:, :, None] / _differences(poles, origin, mu)
        terms = poles[:, None, :] * ratios
        value = terms.sum(2)
        step = mu * (1 - value / (terms - terms * ratios).sum(2))
        below = value * mu < 0
        low, high = torch.where(below, low, mu), torch.where(below, mu, high)
        # Clamped and not bisected: at the root, rounding puts a step just outside the bracket.
        mu = torch.where(step.isnan(), 0.5 * (low + high), step.clamp(low, high))
    differences = _differences(poles, origin, mu)
    vectors = poles[:, None, :] / differences
    values = (origin - mu).clamp(min=0)
    rows = torch.nn.functional.normalize(vectors, dim=2) * values.sqrt()[:, :, None]
    # A gap of nothing, as between probabilities of zero, leaves no root to find and no row.
    rows = torch.where((gaps > 0)[:, :, None] & rows.isfinite(), rows, 0)
    return torch.empty_like(rows).scatter_(2, order[:, None, :].expand_as(rows), rows)


def _differences(poles: Tensor, origin: Tensor, mu: Tensor) -> Tensor:
    """p_j - lambda for lambda = origin - mu, (N, r, C), never exactly zero."""
    differences = (poles[:, None, :] - origin[:, :, None]) + mu[:, :, None]
    tiny = torch.finfo(poles.dtype).tiny
    return torch.where(differences == 0, tiny, differences)


def _secular(poles: Tensor, origin: Tensor, mu: Tensor) -> Tensor:
    """-g at lambda = origin - mu: positive where lambda lies below the root."""
    return -(poles[:, None, :] / _differences(poles, origin, mu)).sum(2)


def sampled_rows(logits: Tensor, uniform: Tensor) -> Tensor:
    """One row grad_z log p_y a sample, y drawn from p by inverting its distribution: (N, 1, C).

    Args:
        logits: (N, C).
        uniform: (N,) numbers in [0, 1), one a sample, so that the draw depends on no batch size.
    """
    p = logits.double().softmax(1)
    reached = p.cumsum(1) <= uniform.to(p)[:, None]
    drawn = reached.sum(1).clamp(max=p.shape[1] - 1)
    return (torch.nn.functional.one_hot(drawn, p.shape[1]) - p)[:, None, :]
