"""What every strategy takes and gives: (model, pool, labeled, n, seed, options) -> Picks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from fishermask_fast.distributed import Ranks
from fishermask_fast.masks import FisherMask
from fishermask_fast.options import QueryOptions, SampleOptions

Pool = Dataset[Any]


@dataclass(frozen=True)
class Picks:
    """What a strategy picked.

    Attributes:
        indices: Pool indices in the order picked, int64 (n,).
        info: What the strategy tells of them, fit for JSON: ``"scores"`` of the picks in that
            order, where it has any; ``"seconds"`` by step; and more.
        mask: The parameters that decided, where the strategy chose any.
    """

    indices: Tensor
    info: dict[str, Any] = field(default_factory=dict)
    mask: FisherMask | None = None


def sizes(pool: Pool, options: QueryOptions) -> list[int]:
    """Samples of each process's part of a pool; of this one's alone where there is no group."""
    return Ranks(options.group).everyone(len(pool))  # type: ignore[arg-type]


Strategy = Callable[[nn.Module, Pool, Pool, int, int, QueryOptions], Picks]


def leave_out(
    strategy: Strategy,
    model: nn.Module,
    pool: Pool,
    labeled: Pool,
    n: int,
    seed: int,
    options: QueryOptions,
) -> Picks:
    """What a strategy of one sample at a time picks among those that are not barred.

    What is pending counts as labeled to a strategy that reads inputs of labeled samples.
    """
    asked = options.samples
    if not asked.barred:
        return strategy(model, pool, labeled, n, seed, options)
    counts = sizes(pool, options)
    before = sum(counts[: Ranks(options.group).number])
    here = range(before, before + len(pool))  # type: ignore[arg-type]
    rest = [at for at in range(sum(counts)) if at not in asked.barred]
    free = Subset(pool, [at - before for at in rest if at in here])
    waiting = [at - before for at in asked.pending if at in here]
    known = ConcatDataset([labeled, Subset(pool, waiting)]) if waiting else labeled
    picks = strategy(model, free, known, n, seed, replace(options, samples=SampleOptions()))
    return replace(picks, indices=torch.tensor(rest)[picks.indices])
