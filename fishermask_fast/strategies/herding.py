"""UHerding: the batch that covers the uncertain part of the pool (Bae et al. 2025, algorithm 1).

With x the head's input, scaled to length 1, and k(x, z) = exp(-|x - z|^2 / h^2), each pick is the
candidate x that adds most to the coverage of all samples z by labeled ones and picks s:

    sum_z U(z) [k(x, z) - max_s k(s, z)]+        U(z) = 1 - (p_1(z) - p_2(z)), the margin's

h is the smallest distance between labeled samples, so it narrows as labels come in; 1 where fewer
than two of them differ. The gain of a candidate only falls with each pick, so that what was found
for an earlier pick bounds it from above, and only candidates at the top are looked at again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool, sizes
from fishermask_fast.strategies.uncertainty import predict, reading

_CHUNK = 2**22
_AT_ONCE = 32
# Of vectors of length 1: what float32 forward passes tell of copies of one sample.
_COPIES = 1e-6


def uherding(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Greedy on the coverage of uncertain samples (Bae et al. 2025), without its temperature."""
    return cover(model, pool, labeled, n, options)


def cover(
    model: nn.Module,
    pool: Pool,
    labeled: Pool,
    n: int,
    options: QueryOptions,
    candidates: Tensor | None = None,
) -> Picks:
    """The n candidates that cover the uncertain part of the whole pool.

    Args:
        model: From a batch to logits.
        pool: Samples to be covered.
        labeled: Samples that cover already.
        n: How many to pick.
        options: Of the forward passes.
        candidates: Pool indices to pick from, int64; None for all.
    """
    log_p, h = predict(model, pool, hidden=True, **reading(options))
    known = h[:0]
    if sum(sizes(labeled, options)):
        known = predict(model, labeled, hidden=True, **reading(options))[1]
    best = log_p.exp().topk(2, dim=1).values
    x, known = (nn.functional.normalize(each, dim=1) for each in (h, known))
    if candidates is None:
        candidates = torch.arange(len(x))
    uncertain = 1 - (best[:, 0] - best[:, 1])
    places, gains = herd(x, known, uncertain, candidates, n, bandwidth(known))
    return Picks(candidates[places], {"scores": gains})


def bandwidth(known: Tensor) -> float:
    """The smallest distance between two labeled samples that differ; 1 where none do.

    Args:
        known: (n_L, d) of length 1.
    """
    smallest = torch.inf
    for some in known.split(max(1, _CHUNK // max(1, len(known)))):
        distances = torch.cdist(some, known, compute_mode="donot_use_mm_for_euclid_dist")
        apart = distances[distances > _COPIES]
        smallest = min(smallest, float(apart.min())) if len(apart) else smallest
    return smallest if smallest < torch.inf else 1.0


def herd(
    x: Tensor, known: Tensor, uncertain: Tensor, candidates: Tensor, n: int, h: float
) -> tuple[Tensor, list[float]]:
    """Greedy picks by what they add to the coverage of x.

    Args:
        x: (N, d) float64, to be covered.
        known: (n_L, d) of the samples that cover already.
        uncertain: (N,) weights U.
        candidates: Row numbers of x to pick from.
        n: How many, at most as many as there are candidates.
        h: Bandwidth.

    Returns:
        (n,) places in ``candidates`` in the order picked, ties by lowest place, and their gains.
    """
    step = max(1, _CHUNK // len(x))
    covered = torch.zeros(len(x), dtype=x.dtype)
    for some in known.split(step) if len(known) else ():
        covered = torch.maximum(covered, _kernel(some, x, h).max(0).values)

    def gains(places: Tensor) -> Tensor:
        return (_kernel(x[candidates[places]], x, h) - covered).clamp_min_(0) @ uncertain

    bounds = torch.cat([gains(some) for some in torch.arange(len(candidates)).split(step)])
    picks: list[int] = []
    found: list[float] = []
    exact = torch.ones(len(candidates), dtype=torch.bool)
    while len(picks) < n:
        top = int(bounds.argmax())
        if not exact[top]:
            stale = bounds.masked_fill(exact, -torch.inf)
            # Picked ones are exact, at -inf.
            again = stale.topk(min(_AT_ONCE, int((~exact).sum()))).indices
            bounds[again] = gains(again)
            exact[again] = True
            continue
        picks.append(top)
        found.append(float(bounds[top]))
        covered = torch.maximum(covered, _kernel(x[candidates[top], None], x, h)[0])
        bounds[top] = -torch.inf
        exact[:] = False
        exact[picks] = True
    return torch.tensor(picks), found


def _kernel(one: Tensor, other: Tensor, h: float) -> Tensor:
    """k of each of one (n, d) with each of other (m, d), (n, m)."""
    square = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    return square.clamp_min_(0).mul_(-1 / h**2).exp_()
