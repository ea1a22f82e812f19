"""What every strategy takes and gives: (model, pool, labeled, n, seed, options) -> Picks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast.distributed import Ranks
from fishermask_fast.masks import FisherMask
from fishermask_fast.options import QueryOptions

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
