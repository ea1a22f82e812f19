"""The scores of all candidates along a selection, for frameworks that show them.

Before each pick s, with A_x = I + V_x M^-1 V_x^T, B_x = V_x G V_x^T and G = M^-1 F M^-1,

    score(x) = tr(A_x^-1 B_x)
    L L^T = A_s^-1,  U = M^-1 V_s^T L,  W = G V_s^T L - U (U^T F U) / 2
    A_x <- A_x - P P^T,  B_x <- B_x - P R^T - R P^T,  P = V_x U,  R = V_x W
    M^-1 <- M^-1 - U U^T,  G <- G - U W^T - W U^T

in float64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fishermask_fast.factors import GradientFactors

_CHUNK = 1024


@torch.no_grad()
def scores_along(
    factors: GradientFactors,
    indices: Sequence[int],
    fisher: Tensor,
    labeled_fisher: Tensor | None = None,
    *,
    lamb: float = 1.0,
    n_labeled: int = 0,
) -> Iterator[Tensor]:
    """How much every candidate would lower tr(M^-1 F), before each pick and after the last.

    Args:
        factors: the N candidates.
        indices: the K picks, in order; M holds the picks before each.
        fisher: (k, k) F.
        labeled_fisher: (k, k) F_L, or None.
        lamb: lambda of M.
        n_labeled: n_L.

    Yields:
        K + 1 times (N,) float64; the samples picked before are scored as if they came again.
    """
    n_select, k, r = len(indices), factors.n_columns, factors.n_rows
    total = n_labeled + n_select
    scale = (n_select / total) ** 0.5
    m = lamb * torch.eye(k, dtype=torch.float64, device=factors.device)
    if labeled_fisher is not None:
        m += labeled_fisher.double() * (n_labeled / total)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(m))
    double = inverse @ fisher.double() @ inverse
    eye = torch.eye(r, dtype=torch.float64, device=factors.device)
    a, b = (scale**2 * form for form in factors.quadratic_forms(inverse, double))
    a += eye
    for index in indices:
        yield _traces(a, b)
        v = factors[int(index)].dense()[0].double() * scale
        y, z = v @ inverse, v @ double
        half = torch.linalg.cholesky(torch.linalg.inv(eye + _symmetric(y @ v.T)))
        u = half.T @ y  # U^T
        w = half.T @ z - (half.T @ _symmetric(z @ v.T) @ half) @ u / 2  # W^T
        inverse -= u.T @ u
        double -= u.T @ w + w.T @ u
        for start, chunk in factors.chunks(_CHUNK):
            part = slice(start, start + len(chunk))
            p, q = chunk.times(torch.cat([u, w]).T).mul_(scale).split(r, dim=2)
            a[part] -= p @ p.mT
            b[part] -= p @ q.mT + q @ p.mT
    yield _traces(a, b)


def _traces(a: Tensor, b: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve(a, b)
    return solved.diagonal(dim1=1, dim2=2).sum(1)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
