"""FisherMask, its hybrid with entropy, and BAIT: one engine, picking by what lowers tr(M^-1 F).

They differ in their masks, and BAIT removes as well as picks. What a strategy asks of M and F is
the user's, or, of candidates for others to pick from, the strategy's own first (aimed).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from fishermask_fast.distributed import Ranks
from fishermask_fast.options import QueryOptions
from fishermask_fast.selector import FisherMaskSelector
from fishermask_fast.strategies.interface import Picks, Pool, leave_out, sizes
from fishermask_fast.strategies.uncertainty import entropy


def fishermask(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """FisherMask (Gul et al. 2024): greedy on the parameters of largest Fisher information."""
    return _query(_fishermask_selector(model, seed, options), pool, labeled, n, options)


def fishermask_entropy(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """The authors' hybrid: n // 2 by entropy, the others by FisherMask from the rest."""
    counts, asked = sizes(pool, options), options.samples
    first = leave_out(entropy, model, pool, labeled, n // 2, seed, options)
    free = torch.ones(sum(counts), dtype=torch.bool)
    free[first.indices] = False
    rest = free.nonzero().flatten()
    own = free.split(counts)[Ranks(options.group).number].nonzero().flatten()
    place = free.cumsum(0) - 1  # of those that are left, among them
    pending, exclude = (
        tuple(place[list(some)].tolist()) for some in (asked.pending, asked.exclude)
    )
    left = replace(options, samples=replace(asked, pending=pending, exclude=exclude))
    then = fishermask(model, Subset(pool, own.tolist()), labeled, n - n // 2, seed, left)
    scores = first.info["scores"] + then.info["scores"]
    indices = torch.cat([first.indices, rest[then.indices]])
    return Picks(indices, {**then.info, "scores": scores}, then.mask)


def bait(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """BAIT (Ash et al. 2021): the same on the head alone, 2n picked and n of them dropped again."""
    return _query(_bait_selector(model, seed, options), pool, labeled, n, options)


def aim(options: QueryOptions) -> dict[str, Any]:
    """What is asked for of M, F and V, as the selector takes it."""
    return {
        "preset": options.preset,
        "lamb": options.lamb,
        "prior_precision": options.prior_precision,
        "criterion": options.criterion,
        "rows": options.rows,
        "eval_weights": options.eval_weights,
        "class_weight": options.class_weight,
        "max_per_cluster": options.samples.max_per_cluster,
    }


def aimed(options: QueryOptions) -> QueryOptions:
    """As recommended, unless a prior_precision or weights are given: to lower tr(M^-1 F)."""
    return replace(options, preset="recommended", lamb=None, criterion="trace", class_weight=None)


def _fishermask_selector(model: nn.Module, seed: int, options: QueryOptions) -> FisherMaskSelector:
    return FisherMaskSelector(
        model,
        fraction=options.fraction,
        n_parameters=options.n_parameters,
        mask=options.mask,
        keep_head=options.keep_head,
        likelihood=options.likelihood or "categorical",
        head=options.head,
        weighting=options.weighting,
        **aim(options),
        fisher_samples=options.fisher_samples,
        rank=options.rank,
        batch_size=options.batch_size,
        seed=seed,
        group=options.group,
    )


def _bait_selector(model: nn.Module, seed: int, options: QueryOptions) -> FisherMaskSelector:
    return FisherMaskSelector(
        model,
        mask="head",
        head=options.head,
        backward_steps=1,
        likelihood=options.likelihood or "categorical",
        weighting=options.weighting,
        **aim(options),
        rank=options.rank,
        batch_size=options.batch_size,
        seed=seed,
        group=options.group,
    )


def _candidates_selector(model: nn.Module, seed: int, options: QueryOptions) -> FisherMaskSelector:
    return _fishermask_selector(model, seed, aimed(options))


SELECTORS = {
    "fishermask": _fishermask_selector,
    "fishermask_entropy": _fishermask_selector,
    "fishermask_coverage": _candidates_selector,
    "bait": _bait_selector,
}


def _query(
    selector: FisherMaskSelector, pool: Pool, labeled: Pool, n: int, options: QueryOptions
) -> Picks:
    asked = options.samples.for_query()
    selection = selector.query(pool, n, labeled, progress=options.progress, **asked)
    return Picks(
        selection.indices.cpu(),
        {
            "scores": selection.scores.tolist(),
            "objective": selection.objective.tolist(),
            "mask": {name: [masked, size] for name, masked, size in selector.mask_.profile()},
            "seconds": selector.seconds_,
        },
        selector.mask_,
    )
