"""TypiClust: the most typical sample of each cluster that holds no label (Hacohen et al. 2022).

The head's inputs of all samples, scaled to length 1, are put into n_L + n clusters, at most 500
(k-means). The clusters with the fewest labeled samples come first, of these the largest, and each
gives its sample of largest typicality, the inverse mean distance to its nearest neighbours within
the cluster, 20 at most; one more round of the clusters begins where they do not suffice. Clusters
of five samples or fewer come last.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool, sizes
from fishermask_fast.strategies.uncertainty import predict, reading

MOST_CLUSTERS = 500
NEIGHBOURS = 20
SMALL = 5
_CHUNK = 2**22


def typiclust(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Typical samples of clusters without labels (Hacohen et al. 2022, algorithm 1)."""
    h = predict(model, pool, hidden=True, **reading(options))[1]
    known = h[:0]
    if sum(sizes(labeled, options)):
        known = predict(model, labeled, hidden=True, **reading(options))[1]
    x = nn.functional.normalize(torch.cat([known, h]), dim=1)
    clusters = _clusters(x, min(len(known) + n, MOST_CLUSTERS), seed)
    places, found = typical(x, clusters, len(known), n)
    return Picks(places - len(known), {"scores": found})


def typical(x: Tensor, clusters: Tensor, n_known: int, n: int) -> tuple[Tensor, list[float]]:
    """One typical sample after another, of the cluster whose turn it is.

    Args:
        x: (n_L + N, d) of all samples, the labeled ones first.
        clusters: (n_L + N,) int64, the cluster of each.
        n_known: n_L.
        n: How many to pick, at most N.

    Returns:
        (n,) row numbers of x in the order picked, and their typicalities; ties go to the lowest
        number of a cluster, and of a row.
    """
    count = int(clusters.max()) + 1
    size = clusters.bincount(minlength=count)
    labels = clusters[:n_known].bincount(minlength=count)
    turns = sorted(range(count), key=lambda c: (size[c] <= SMALL, int(labels[c]), -int(size[c])))
    free = torch.ones(len(x), dtype=torch.bool)
    free[:n_known] = False
    picks: list[int] = []
    found: list[float] = []
    while len(picks) < n:
        for cluster in turns:
            rows = ((clusters == cluster) & free).nonzero().flatten()
            if not len(rows) or len(picks) == n:
                continue
            scores = _typicality(x[rows])
            best = int(scores.argmax())
            picks.append(int(rows[best]))
            found.append(float(scores[best]))
            free[rows[best]] = False
    return torch.tensor(picks), found


def _typicality(x: Tensor) -> Tensor:
    """The inverse mean distance of each sample to its nearest others, (n,)."""
    n_neighbours = min(NEIGHBOURS, len(x) - 1)
    if n_neighbours == 0:
        return torch.ones(1, dtype=x.dtype)
    sums = []
    for some in x.split(max(1, _CHUNK // len(x))):
        distances = torch.cdist(some, x, compute_mode="donot_use_mm_for_euclid_dist")
        # The nearest of all is the sample itself, at distance 0.
        sums.append(distances.topk(n_neighbours + 1, largest=False).values.sum(1))
    # Copies lie at no distance from each other; JSON knows no infinity.
    return n_neighbours / torch.cat(sums).clamp_min(torch.finfo(torch.float32).eps)


def _clusters(x: Tensor, count: int, seed: int) -> Tensor:
    """Of each row its cluster, (N,) int64."""
    cluster: Any = import_module("sklearn.cluster")
    with warnings.catch_warnings():
        # Of fewer different samples than clusters; some clusters are empty then.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        found = cluster.KMeans(min(count, len(x)), n_init=1, random_state=seed % 2**32)
        found.fit(x.numpy())
    return torch.from_numpy(found.labels_).long()
