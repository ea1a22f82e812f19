"""Fisher filters, coverage picks: FisherMask says what teaches the model, UHerding spreads it out.

    candidates   5 n by FisherMask, with lamb = 0.1 tr(F) / k and each class alike in F
    picks        n of them by UHerding, which covers the uncertain part of the whole pool

The prior and the target are part of it: at the published lamb = 1 and with the pool as it is,
candidates depend on the units of the gradients, and on which classes are common. A prior_precision,
or other eval_weights, take their place. With a head on frozen features, whose penalty is known,
that penalty is the prior_precision, and rows="top_class" makes the candidates cheap.
"""

from __future__ import annotations

import torch
from torch import nn

from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.fisher import aimed, fishermask
from fishermask_fast.strategies.herding import cover
from fishermask_fast.strategies.interface import Picks, Pool, leave_out, sizes

CANDIDATES = 5
"""Of each pick."""


def fishermask_coverage(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """FisherMask's 5 n candidates, of which UHerding picks n."""
    free = torch.ones(sum(sizes(pool, options)), dtype=torch.bool)
    free[list(options.samples.barred)] = False
    count = min(CANDIDATES * n, int(free.sum()))
    first = fishermask(model, pool, labeled, count, seed, aimed(options))
    candidates = (free.cumsum(0) - 1)[first.indices]  # among those that are left

    def spread(
        model: nn.Module, pool: Pool, known: Pool, n: int, _: int, own: QueryOptions
    ) -> Picks:
        return cover(model, pool, known, n, own, candidates)

    picks = leave_out(spread, model, pool, labeled, n, seed, options)
    # The course of tr(M^-1 F) is that of the candidates, not of the batch.
    told = {key: value for key, value in first.info.items() if key not in ("scores", "objective")}
    return Picks(picks.indices, {**told, **picks.info}, first.mask)
