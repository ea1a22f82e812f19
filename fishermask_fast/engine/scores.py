"""The scores of all candidates along a selection, for frameworks that show them.

Before each pick s, with A_x = I + V_x M^-1 V_x^T, B_x = V_x G V_x^T and G = M^-1 F M^-1,

    score(x) = tr(A_x^-1 B_x)
    L L^T = A_s^-1,  U = M^-1 V_s^T L,  W = G V_s^T L - U (U^T F U) / 2
    A_x <- A_x - P P^T,  B_x <- B_x - P R^T - R P^T,  P = V_x U,  R = V_x W
    M^-1 <- M^-1 - U U^T,  G <- G - U W^T - W U^T

in float64 throughout. Of log det M the score is log det A_x, and there are no G, W and B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fishermask_fast.checks import LAMB
from fishermask_fast.engine.inputs import Options
from fishermask_fast.factors import GradientFactors

_CHUNK = 1024


@torch.no_grad()
def scores_along(
    factors: GradientFactors,
    indices: Sequence[int],
    fisher: Tensor | None,
    labeled_fisher: Tensor | None = None,
    *,
    lamb: float | str = LAMB,
    n_labeled: int = 0,
    prior_precision: float | str | None = None,
    criterion: str = "trace",
    pending: Tensor | Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """How much every candidate would change the objective, before each pick and after the last.

    Args:
        factors: the N candidates.
        indices: the K picks, in order; M holds the picks before each.
        fisher: (k, k) F; None with "logdet", or for the mean over the candidates.
        labeled_fisher: (k, k) F_L, or None.
        lamb: lambda of M, as for select_batch.
        n_labeled: n_L.
        prior_precision: as for select_batch.
        criterion: "trace", or "logdet".
        pending: samples that are in M from the start.

    Yields:
        K + 1 times (N,) float64; the samples picked before are scored as if they came again.
    """
    asked = Options.checked(
        len(indices), lamb, n_labeled, 0, None, None, "float64",
        prior_precision=prior_precision, criterion=criterion, pending=pending,
    )  # fmt: skip
    f = asked.needed_fisher(factors) if fisher is None else fisher.double()
    known = None if labeled_fisher is None else labeled_fisher.double()
    problem = asked.problem(f, known, factors.device)
    scale, r = problem.scale, factors.n_rows
    waiting = None
    if asked.pending is not None and len(asked.pending):
        waiting = factors[asked.pending.to(factors.device)]
    m = problem.information(waiting)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(m))
    eye = torch.eye(r, dtype=torch.float64, device=factors.device)
    if asked.log_det:
        yield from _log_dets(factors, indices, inverse, scale)
        return
    double = inverse @ problem.fisher @ inverse
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


def _log_dets(
    factors: GradientFactors, indices: Sequence[int], inverse: Tensor, scale: float
) -> Iterator[Tensor]:
    (k,) = (scale**2 * form for form in factors.quadratic_forms(inverse))  # A - I
    eye = torch.eye(factors.n_rows, dtype=torch.float64, device=factors.device)
    for index in indices:
        yield torch.linalg.eigvalsh(k).log1p().sum(1)
        v = factors[int(index)].dense()[0].double() * scale
        y = v @ inverse
        half = torch.linalg.cholesky(torch.linalg.inv(eye + _symmetric(y @ v.T)))
        u = half.T @ y  # U^T
        inverse = inverse - u.T @ u
        for start, chunk in factors.chunks(_CHUNK):
            p = chunk.times(u.T.contiguous()).mul_(scale)
            k[start : start + len(chunk)] -= p @ p.mT
    yield torch.linalg.eigvalsh(k).log1p().sum(1)


def _traces(a: Tensor, b: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve(a, b)
    return solved.diagonal(dim1=1, dim2=2).sum(1)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
