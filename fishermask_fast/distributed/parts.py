"""Which samples of a data set this process reads: all of them, or a rank's part.

Rank p of W reads the samples p, p + W, ... of a DataLoader with a DistributedSampler, whatever
order the sampler would give; otherwise a rank's data are its own, and ranks follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from fishermask_fast.distributed.agreement import check_apart, check_same, described_inputs
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.network import Pool

T = TypeVar("T")

_SPREAD = ("unlabeled", "labeled")
"""Data whose samplers say that processes share a query."""


@dataclass(frozen=True)
class Part:
    """The samples of a data set that this process reads.

    Attributes:
        data: what they are read from; None where there are none.
        indices: of these samples in `data`, ascending; None for all of it.
        places: (n,) int64, of the same samples in the whole data set.
        n_total: samples of the whole data set.
    """

    data: Any
    indices: list[int] | None
    places: Tensor
    n_total: int

    def __len__(self) -> int:
        return len(self.places)

    def among(self, places: Tensor) -> list[int]:
        """The indices in `data` of those samples of some places that are this process's."""
        here = torch.isin(self.places, places).nonzero().squeeze(1).tolist()
        return here if self.indices is None else [self.indices[i] for i in here]

    @property
    def some(self) -> Any:
        """One sample, as a batch for the model."""
        return Pool.of(self.data).subset([0 if self.indices is None else self.indices[0]]).first(1)


NOTHING = Part(None, [], torch.arange(0), 0)


class Ranks:
    """The processes that share a query, or this one alone.

    Args:
        group: None where this process is alone.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self._exchange = None if group is None else Exchange(group)

    @classmethod
    def of(cls, group: dist.ProcessGroup | None, data: Mapping[str, Any]) -> Ranks:
        """The given group, or all processes where a DataLoader has a DistributedSampler.

        Args:
            group: as given; None where a sampler says it.
            data: data sets by name, of which ``unlabeled`` and ``labeled`` say it.

        Raises:
            ValueError: one of the data sets is spread over processes and another is not, the
                samplers are made for others than the group, or ranks have them and others not.
        """
        samplers = {name: sampler_of(item) for name, item in data.items() if item is not None}
        if any(samplers.get(name) is not None for name in _SPREAD):
            if not dist.is_available() or not dist.is_initialized():
                raise ValueError("a DistributedSampler needs torch.distributed.init_process_group")
            group = group or dist.group.WORLD
        ranks = cls(group)
        # Together, or the ranks whose samplers are right would wait for the one that has failed.
        if not ranks.alone:
            ranks.attempt(lambda: _check_samplers(samplers, group))
        ranks.check_same(
            lambda: {
                f"how {name} is read": "in turns, by a DistributedSampler"
                if samplers.get(name) is not None
                else "whole, by each rank its own"
                for name in data
            }
        )
        return ranks

    @property
    def number(self) -> int:
        """Of this process, from 0."""
        return 0 if self._exchange is None else self._exchange.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self._exchange is None else self._exchange.size

    @property
    def alone(self) -> bool:
        """Whether this process reads all data."""
        return self._exchange is None

    def part(self, data: Any, name: str) -> Part:
        """What of a data set this process reads.

        Raises:
            TypeError, ValueError: as Pool.of; on all ranks where one of them fails.
        """
        exchange = self._exchange
        if exchange is None:
            n = len(Pool.of(data, name))
            return Part(data, None, torch.arange(n), n)
        sampler = sampler_of(data)
        if sampler is not None:
            plain = _without_sampler(data)
            n = self.attempt(lambda: len(Pool.of(plain, name)))
            check_same(exchange, {f"the number of {name} samples": str(n)})
            self._check_samples(name, plain)
            mine = range(exchange.rank, n, exchange.size)
            return Part(plain if mine else None, list(mine), torch.tensor(list(mine)).long(), n)
        count = self.attempt(lambda: 0 if is_empty(data) else len(Pool.of(data, name)))
        self._check_samples(name, data if count else None)
        counts = exchange.everyone(count)
        before = sum(counts[: exchange.rank])
        places = torch.arange(before, before + count)
        return Part(data if count else None, None, places, sum(counts))

    def attempt(self, work: Callable[[], T]) -> T:
        """Do some work; where it fails on one rank, it fails on all."""
        return work() if self._exchange is None else self._exchange.agree(work)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks."""
        return tensor if self._exchange is None else self._exchange.total(tensor)

    def first(self, value: Any) -> Any:
        """What the first rank that has one gives."""
        if self._exchange is None:
            return value
        return next((told for told in self._exchange.everyone(value) if told is not None), None)

    def everyone(self, value: T) -> list[T]:
        """What each rank gives, in the order of ranks."""
        return [value] if self._exchange is None else self._exchange.everyone(value)

    def check_same(self, describe: Callable[[], Mapping[str, str | None]]) -> None:
        """Raise, on all ranks, where what `describe` gives differs between them.

        Raises:
            ValueError: names what differs, and the ranks.
        """
        if self._exchange is not None:
            check_same(self._exchange, self.attempt(describe))

    def check_apart(self, name: str, value: str | None) -> None:
        """Raise, on all ranks, where two of them have the same value, None apart.

        Raises:
            ValueError: names the ranks.
        """
        if self._exchange is not None:
            check_apart(self._exchange, name, value)

    def _check_samples(self, name: str, data: Any) -> None:
        def kind() -> dict[str, str | None]:
            if data is None:
                return {}
            return {f"{name} data": described_inputs(Pool.of(data).subset([0]).first(1))}

        self.check_same(kind)


def sampler_of(data: object) -> Any:
    """The DistributedSampler of a DataLoader, or None."""
    if not isinstance(data, DataLoader):
        return None
    for sampler in (data.sampler, getattr(data.batch_sampler, "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            return sampler
    return None


def _check_samplers(samplers: Mapping[str, Any], group: dist.ProcessGroup | None) -> None:
    """Raise where samplers are missing or for others than this process in its group."""
    # A sampler that drops its only samples is false.
    missing = [samplers[name] is None for name in _SPREAD if name in samplers]
    if any(missing) and not all(missing):
        raise ValueError(
            "unlabeled and labeled must both be DataLoaders with a DistributedSampler, or "
            "neither; got one of them"
        )
    here = (dist.get_rank(group), dist.get_world_size(group))
    for sampler in samplers.values():
        if sampler is not None and (sampler.rank, sampler.num_replicas) != here:
            raise ValueError(
                f"the DistributedSampler must be rank {here[0]} of {here[1]}, as this process "
                f"is in its group; got rank {sampler.rank} of {sampler.num_replicas}"
            )


def is_empty(data: Any) -> bool:
    """Whether there are no samples in a data set, or no data set."""
    # A DataLoader's own length counts batches, and may be 0 where it drops an incomplete one.
    samples = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(samples, Tensor):
        return not samples.is_nested and samples.ndim > 0 and len(samples) == 0
    return samples is None or (hasattr(samples, "__len__") and len(samples) == 0)


def _without_sampler(loader: DataLoader[Any]) -> DataLoader[Any]:
    return DataLoader(
        loader.dataset,
        loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )
