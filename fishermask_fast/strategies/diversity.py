"""Strategies that spread a batch out: k-center greedy, and k-means++ on gradient embeddings.

Both keep one squared distance a candidate, D_x = min over centres c of |g_x - g_c|^2, and lower it
with each new centre: O(N d) a pick, and no N x N array.

BADGE's embedding is the gradient at the head for the predicted class, g_x = a_x kron h_x with
a_x = p_x - onehot(argmax p_x), h_x the head's input. It stays in factors:

    |g_x - g_c|^2 = |a_x|^2 |h_x|^2 + |a_c|^2 |h_c|^2 - 2 (a_x . a_c)(h_x . h_c)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool, sizes
from fishermask_fast.strategies.uncertainty import predict, reading

_CHUNK = 2**22


def coreset(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """k-center greedy on the head's inputs (Sener and Savarese 2018, algorithm 1).

    Each pick is the candidate furthest from all labeled samples and all picks before it. Where
    nothing is labeled the first pick is the candidate furthest from the mean.
    """
    h = predict(model, pool, hidden=True, **reading(options))[1]
    if sum(sizes(labeled, options)):
        centres = predict(model, labeled, hidden=True, **reading(options))[1]
    else:
        centres = h.mean(0, keepdim=True)
    step = max(1, _CHUNK // len(h))
    nearest = torch.full((len(h),), torch.inf, dtype=h.dtype)
    for some in centres.split(step):
        nearest = torch.minimum(nearest, torch.cdist(h, some).square().min(1).values)
    picks, distances = [], []
    for _ in range(n):
        pick = int(nearest.argmax())
        distances.append(float(nearest[pick].sqrt()))
        picks.append(pick)
        nearest = torch.minimum(nearest, (h - h[pick]).square().sum(1))
        # Below every distance, so that duplicates of a pick are taken before the pick again.
        nearest[picks] = -1
    return Picks(torch.tensor(picks), {"scores": distances})


def badge(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """k-means++ on gradients at the head for the predicted class (Ash et al. 2020, algorithm 1).

    The first centre is uniform, each further one drawn with probability D_x / sum D (Arthur and
    Vassilvitskii 2007), on g_x in factors.
    """
    log_p, h = predict(model, pool, hidden=True, **reading(options))
    a = log_p.exp()
    a[torch.arange(len(a)), a.argmax(1)] -= 1
    return Picks(factored_kmeans_plusplus(a, h, n, torch.Generator().manual_seed(seed)))


def factored_kmeans_plusplus(a: Tensor, h: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding on the rows g_x = a_x kron h_x, never formed.

    Args:
        a: (N, C) float64.
        h: (N, d) float64.
        n: Centres, at most N.
        generator: Of the draws.

    Returns:
        (n,) int64, different row numbers in the order drawn.
    """
    size = a.square().sum(1) * h.square().sum(1)
    nearest = torch.full_like(size, torch.inf)
    free = torch.ones(len(a), dtype=torch.bool)
    picks: list[int] = []
    while len(picks) < n:
        weights = nearest * free if picks else free.double()
        if not weights.sum() > 0:  # what is left equals a centre
            weights = free.double()
        pick = _draw(weights, generator)
        picks.append(pick)
        free[pick] = False
        nearest = torch.minimum(nearest, squared_distances(a, h, size, pick))
    return torch.tensor(picks)


def squared_distances(a: Tensor, h: Tensor, size: Tensor, centre: int) -> Tensor:
    """|g_x - g_c|^2 (N,) of the rows g_x = a_x kron h_x of squares |g_x|^2 = size (N,)."""
    products = (a @ a[centre]) * (h @ h[centre])
    return (size + size[centre] - 2 * products).clamp_min(0)


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """An index drawn in proportion to weights (N,), never one of weight zero."""
    cumulative = weights.cumsum(0)
    point = torch.rand((), dtype=weights.dtype, generator=generator) * cumulative[-1]
    index = int(torch.searchsorted(cumulative, point, right=True))
    return min(index, int(weights.nonzero()[-1]))
