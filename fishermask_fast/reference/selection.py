"""Greedy picks by the formula of the score, or by log det."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def initial_precision(
    fisher: Tensor,  # (k, k)
    labeled_fisher: Tensor | None,  # (k, k)
    n_select: int,
    lamb: float,
    n_labeled: int,
) -> Tensor:
    """M^-1 before the first pick, M = lamb I + F_L n_L / (n_L + K), as (k, k).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> precision = reference.initial_precision(torch.eye(2), None, 5, lamb=2.0, n_labeled=0)
        >>> precision.diagonal().tolist()
        [0.5, 0.5]
    """
    m = lamb * torch.eye(fisher.shape[0], dtype=fisher.dtype, device=fisher.device)
    if labeled_fisher is not None:
        m = m + labeled_fisher * (n_labeled / (n_labeled + n_select))
    inverse: Tensor = torch.linalg.inv(m)
    return inverse


def scores(
    gradients: Tensor,  # (N, r, k)
    precision: Tensor,  # (k, k) M^-1
    fisher: Tensor,  # (k, k)
    sign: int = 1,
    chunk_size: int = 200,
) -> Tensor:
    """How much tr(M^-1 F) changes with each sample, (N,).

    sign = 1: the decrease when the sample is added, tr(B (I + V M^-1 V^T)^-1);
    sign = -1: the increase when it is removed, tr(B (I - V M^-1 V^T)^-1).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.scores(v, torch.eye(2), fisher).tolist()  # 4 / (1 + 4) and 1 / (1 + 1)
        [0.800000011920929, 0.5]
    """
    g = precision @ fisher @ precision
    eye = torch.eye(gradients.shape[1], dtype=gradients.dtype, device=gradients.device)
    out = []
    for v in gradients.split(chunk_size):
        a = eye + sign * (v @ precision @ v.mT)
        b = v @ g @ v.mT
        out.append(torch.linalg.solve(a, b).diagonal(dim1=-2, dim2=-1).sum(-1))
    return torch.cat(out)


def log_det_scores(
    gradients: Tensor,  # (N, r, k)
    precision: Tensor,  # (k, k) M^-1
    sign: int = 1,
) -> Tensor:
    """How much log det M changes with each sample, (N,): log det (I + V M^-1 V^T).

    sign = 1: the rise when the sample is added (D-optimal design: Atkinson, Donev, Tobias 2007,
    "Optimum Experimental Designs", chapter 10); sign = -1: the fall when it is removed,
    -log det (I - V M^-1 V^T).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
        >>> [round(x, 4) for x in reference.log_det_scores(v, torch.eye(2)).tolist()]
        [0.6931, 2.3026]
    """
    eigenvalues = torch.linalg.eigvalsh(gradients @ precision @ gradients.mT)
    return sign * torch.log1p(sign * eigenvalues).sum(-1)


def change_precision(precision: Tensor, v: Tensor, sign: int = 1) -> Tensor:
    """M^-1 after V^T V has been added to M (sign = 1) or taken from it (sign = -1), by Woodbury.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.change_precision(torch.eye(2), v[1]).diagonal().tolist()
        [1.0, 0.5]
    """
    left = precision @ v.mT
    eye = torch.eye(v.shape[0], dtype=v.dtype, device=v.device)
    change: Tensor = left @ torch.linalg.solve(eye + sign * (v @ left), left.mT)
    return precision - sign * change


def select(
    gradients: Tensor,  # (N, r, k)
    n_select: int,
    fisher: Tensor | None = None,  # (k, k)
    labeled_fisher: Tensor | None = None,  # (k, k)
    *,
    lamb: float = 1.0,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int = 200,
    prior_precision: float | None = None,
    gain_weights: Tensor | None = None,  # (N,)
    pending: Sequence[int] = (),
    exclude: Sequence[int] = (),
    cluster_ids: Sequence[int] | None = None,  # (N,)
    max_per_cluster: int = 1,
    criterion: str = "trace",
) -> tuple[list[int], list[float]]:
    """The published selection: recomputes every score at every pick (FisherMask, BAIT).

    Beside the published form there are

        prior_precision p:  M = p I + n_L F_L + sum_picked V_x^T V_x, in place of lamb's scale
        gain_weights w:     the pick is the largest w_x score(x), the drop the smallest
        pending:            samples in M from the start, like picks, and never picked
        exclude:            samples never picked
        cluster_ids:        at most max_per_cluster of a cluster, the pending ones counted
        criterion "logdet": the score is the change of log det M

    Runs in the dtype of `gradients`. Returns the picked indices in order (with backward steps the
    survivors) and the scores of the forward picks.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # two samples, one row, two parameters
        >>> fisher = torch.eye(2)
        >>> reference.select(v, 2)[0]
        [0, 1]
    """
    dtype, n = gradients.dtype, len(gradients)
    if fisher is None:
        fisher = torch.einsum("nrk,nrl->kl", gradients, gradients) / n
    fisher = fisher.to(dtype)
    labeled = None if labeled_fisher is None else labeled_fisher.to(dtype)
    if prior_precision is None:
        precision = initial_precision(fisher, labeled, n_select, lamb, n_labeled)
        v = gradients * (n_select / (n_labeled + n_select)) ** 0.5
    else:
        m = prior_precision * torch.eye(len(fisher), dtype=dtype, device=fisher.device)
        precision = torch.linalg.inv(m if labeled is None else m + n_labeled * labeled)
        v = gradients
    weights = torch.ones(n, dtype=dtype) if gain_weights is None else gain_weights.to(dtype)
    clusters = list(range(n)) if cluster_ids is None else list(cluster_ids)

    def values(some: Tensor, sign: int = 1) -> Tensor:
        if criterion == "logdet":
            return log_det_scores(some, precision, sign)
        return scores(some, precision, fisher, sign, chunk_size)

    for sample in pending:
        precision = change_precision(precision, v[sample])
    picked: list[int] = []
    gains: list[float] = []
    while len(picked) < (1 + backward_steps) * n_select:
        held = [clusters[x] for x in (*pending, *picked)]
        barred = {*pending, *exclude, *picked}
        free = [
            x for x in range(n) if x not in barred and held.count(clusters[x]) < max_per_cluster
        ]
        if not free:
            break
        score = values(v)
        best = free[int((weights * score)[free].argmax())]
        picked.append(best)
        gains.append(float(score[best]))
        precision = change_precision(precision, v[best])
    while len(picked) > n_select:
        increase = weights[picked] * values(v[picked], -1)
        dropped = picked.pop(int(increase.argmin()))
        precision = change_precision(precision, v[dropped], sign=-1)
    return picked, gains
