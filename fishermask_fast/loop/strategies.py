"""Who picks the next batch: functions of (model, pool, labelled, n, seed) that return pool indices.

``fishermask`` and ``bait`` are one engine with two masks; ``random`` is what every strategy has
to beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast.selector import FisherMaskSelector

Pool = Dataset[Any]


@dataclass(frozen=True)
class Picks:
    """Pool indices in the order picked, int64 (n,), and what the strategy tells of them."""

    indices: Tensor
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QueryOptions:
    """What the strategies may need beyond their five arguments; see ``FisherMaskSelector``."""

    fraction: float = 0.002
    mask: str = "global"
    keep_head: bool = True
    weighting: str = "fisher"
    lamb: float = 1.0
    fisher_samples: int = 1024
    rank: int | None = None
    batch_size: int | None = None
    progress: bool = False


Strategy = Callable[[nn.Module, Pool, Pool, int, int, QueryOptions], Picks]


def fishermask(
    model: nn.Module, pool: Pool, labelled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """FisherMask (Gul et al. 2024): greedy on the parameters of largest Fisher information."""
    return _query(_fishermask_selector(model, seed, options), pool, labelled, n, options)


def bait(
    model: nn.Module, pool: Pool, labelled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """BAIT (Ash et al. 2021): the same on the head alone, 2n picked and n of them dropped again."""
    return _query(_bait_selector(model, seed, options), pool, labelled, n, options)


def random(
    model: nn.Module, pool: Pool, labelled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Uniform without replacement."""
    size = len(pool)  # type: ignore[arg-type]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return Picks(order[:n])


STRATEGIES: dict[str, Strategy] = {"fishermask": fishermask, "bait": bait, "random": random}


def check(name: str, model: nn.Module, options: QueryOptions) -> None:
    """Raise ValueError or TypeError where a strategy cannot work for this model and options."""
    if name in _SELECTORS:
        _SELECTORS[name](model, 0, options).check_parameters()


def _fishermask_selector(model: nn.Module, seed: int, options: QueryOptions) -> FisherMaskSelector:
    return FisherMaskSelector(
        model,
        fraction=options.fraction,
        mask=options.mask,
        keep_head=options.keep_head,
        weighting=options.weighting,
        lamb=options.lamb,
        fisher_samples=options.fisher_samples,
        rank=options.rank,
        batch_size=options.batch_size,
        seed=seed,
    )


def _bait_selector(model: nn.Module, seed: int, options: QueryOptions) -> FisherMaskSelector:
    return FisherMaskSelector(
        model,
        mask="head",
        backward_steps=1,
        weighting=options.weighting,
        lamb=options.lamb,
        rank=options.rank,
        batch_size=options.batch_size,
        seed=seed,
    )


_SELECTORS = {"fishermask": _fishermask_selector, "bait": _bait_selector}


def _query(
    selector: FisherMaskSelector, pool: Pool, labelled: Pool, n: int, options: QueryOptions
) -> Picks:
    selection = selector.query(pool, n, labelled, progress=options.progress)
    return Picks(
        selection.indices.cpu(),
        {
            "scores": selection.scores.tolist(),
            "objective": selection.objective.tolist(),
            "mask": {name: masked for name, masked, _ in selector.mask_.profile() if masked},
            "seconds": selector.seconds_,
        },
    )
