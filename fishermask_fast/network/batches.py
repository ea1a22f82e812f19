"""Reading samples in a fixed order from a Dataset, a DataLoader or a Tensor.

Row i of every result belongs to sample i of the data, so a pool is always read by index:
    sample i -> inputs x_i, and a batch is (x_i) for consecutive indices i.
Labels are dropped here, and nowhere else. A batch that holds other samples than were asked for, or
in another order, would give all later rows to the wrong samples: it is refused (see `collating`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import as_integer, check_integer, is_integer, shown
from fishermask_fast.network.collating import (
    Collated,
    Collating,
    Inputs,
    check_samples,
    count_samples,
    model_inputs,
    rebuilt,
    samples_of,
)

_ADVICE = (
    "Leave broken samples out beforehand: sample i of torch.utils.data.Subset(data, good) is "
    "sample good[i] of the data"
)


@dataclass(frozen=True)
class Pool:
    """Samples that can be read by index, in batches, any number of times.

    Attributes:
        source: a tensor whose rows are samples, or a map-style dataset.
        collate: makes one batch of a list of the dataset's items.
        loader: further DataLoader options (workers and the like).
        batch_size: the DataLoader's own, or None.
        indices: of the samples in the user's data; None for all of them.
        collating: the function with what is known of it, which pools of the same data share.
    """

    source: Tensor | Dataset[Any]
    collate: Callable[[list[Any]], Any]
    loader: dict[str, Any]
    batch_size: int | None
    indices: Sequence[int] | None = None
    collating: Collating | None = None

    def __post_init__(self) -> None:
        if self.collating is None:
            object.__setattr__(self, "collating", Collating(self.collate))

    @classmethod
    def of(cls, data: object, name: str = "data") -> Pool:
        """Reads `data` as a pool.

        Args:
            data: Tensor (N, ...), map-style Dataset, or DataLoader over one. A DataLoader lends its
                dataset, collate function, workers and batch size; samples are read in the
                dataset's order even where it shuffles, and none is left out of the last batch.
            name: what to call it in messages.

        Raises:
            TypeError: not a Tensor, Dataset or DataLoader, without length and index, or sparse.
            ValueError: no samples, or a DataLoader whose sampler picks its own subset.
        """
        if isinstance(data, Tensor):
            check_samples(name, data)
            pool = cls(data.detach(), default_collate, {}, None)
        elif isinstance(data, DataLoader):
            pool = cls._of_loader(data, name)
        elif isinstance(data, IterableDataset) or not (
            hasattr(data, "__getitem__") and hasattr(data, "__len__")
        ):
            raise TypeError(
                f"{name} must be a Tensor, a map-style Dataset or a DataLoader over one, "
                f"with a length and an index; got {type(data).__name__}"
            )
        elif isinstance(data, (Mapping, str)):
            raise TypeError(
                f"{name} must be a Tensor, a Dataset or a DataLoader; got {type(data).__name__}"
            )
        else:
            pool = cls(data, default_collate, {}, None)  # type: ignore[arg-type]
        if len(pool) == 0:
            raise ValueError(f"{name} is empty; expected at least one sample")
        return pool

    @classmethod
    def _of_loader(cls, loader: DataLoader[Any], name: str) -> Pool:
        if isinstance(loader.dataset, IterableDataset):
            raise TypeError(f"{name} is a DataLoader over an IterableDataset; it needs an index")
        sampler = loader.sampler
        batched = loader.batch_sampler
        if batched is not None:
            sampler = batched.sampler if type(batched) is BatchSampler else batched
        if not isinstance(sampler, (SequentialSampler, RandomSampler)):
            raise ValueError(
                f"{name} is a DataLoader with a {type(sampler).__name__}, so its samples "
                "have no fixed index; give a torch.utils.data.Subset of the dataset instead"
            )
        options = {
            "num_workers": loader.num_workers,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "timeout": loader.timeout,
        }
        collate = default_collate if batched is None else loader.collate_fn
        # A loader given a batch sampler keeps no batch size of its own.
        size = loader.batch_size or getattr(batched, "batch_size", None)
        return cls(loader.dataset, collate, options, size)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Inputs]:
        """Model inputs of all samples from `start` on in order; the last batch may be smaller.

        Raises:
            ValueError: a batch that does not hold the samples asked for in their order.
        """
        batch_size = int(batch_size)  # a numpy integer would not do for torch
        if isinstance(self.source, Tensor):
            if start < len(self):
                yield from self.source[start:].split(batch_size)
            return
        loader = DataLoader(
            self.source,
            batch_size=batch_size,
            sampler=range(start, len(self)),
            collate_fn=self.collating,
            # The seed of the workers comes from here and not from the global random state.
            generator=torch.Generator().manual_seed(0),
            **self.loader,
        )
        for batch in loader:
            stop = min(start + batch_size, len(self))
            yield self._checked(batch, start, stop)
            start = stop

    def first(self, count: int) -> Inputs:
        """Model inputs of the first `count` samples, or of all where there are fewer.

        Raises:
            ValueError: as `batches`.
        """
        if isinstance(self.source, Tensor):
            return self.source[:count]
        stop = min(count, len(self))
        # As a DataLoader asks for a batch: samples may be padded to the longest beside them.
        together = getattr(self.source, "__getitems__", None)
        items = together(range(stop)) if together else [self.source[i] for i in range(stop)]
        return self._checked(self._collated(items), 0, stop)

    def _collated(self, items: list[Any]) -> Collated:
        assert self.collating is not None
        return self.collating(items)

    def _checked(self, found: Collated, start: int, stop: int) -> Inputs:
        """What goes into the model of the batch that was asked for samples start .. stop - 1."""
        which = f"the batch of samples {start} to {stop - 1} (of {len(self)})"
        if found.missing:
            places = [start + i for i in found.missing]
            named = places if self.indices is None else [self.indices[i] for i in places]
            raise ValueError(
                f"{which} has {len(named)} without data: the dataset gives None at "
                f"{', '.join(map(str, named[:10]))}{', ...' if len(named) > 10 else ''}. {_ADVICE}"
            )
        inputs = model_inputs(found.batch)
        for what, n in (("the dataset", found.n_items), ("collate_fn", count_samples(inputs))):
            if n != stop - start:
                raise ValueError(
                    f"{which} must hold {stop - start} samples; {what} gave {n}. Rows would belong "
                    f"to other samples. {_ADVICE}"
                )
        if not found.in_order:
            raise ValueError(
                f"{which} must hold its samples in the order asked for; collate_fn changes it, so "
                "that rows would belong to other samples. Give data whose collate_fn keeps the "
                "order (nn.utils.rnn.pack_padded_sequence takes enforce_sorted=False)"
            )
        return inputs

    def subset(self, indices: Sequence[int]) -> Pool:
        """A pool of the samples at `indices`."""
        if isinstance(self.source, Tensor):
            rows: Tensor | Dataset[Any] = self.source[
                torch.as_tensor(indices, device=self.source.device)
            ]
        else:
            rows = Subset(self.source, list(indices))
        places = list(indices) if self.indices is None else [self.indices[i] for i in indices]
        return Pool(rows, self.collate, self.loader, self.batch_size, places, self.collating)


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    """Some samples of a batch; what has no samples' dimension stays as it is."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    picked = {k: value[rows] for k, value in samples_of(inputs, count_samples(inputs)).items()}
    return rebuilt(inputs, {**inputs, **picked})


def to_model(inputs: Inputs, device: torch.device, dtype: torch.dtype | None) -> Inputs:
    """A batch on the model's device, a lone tensor also in `dtype` where one is given.

    Keyword arguments keep their dtypes: token ids and masks are integers by intention.
    """
    if isinstance(inputs, Tensor):
        return inputs.detach().to(device=device, dtype=dtype)
    moved = {
        key: value.detach().to(device) if isinstance(value, Tensor) else value
        for key, value in inputs.items()
    }
    return rebuilt(inputs, moved)


def check_count(name: str, value: object, optional: bool = True) -> None:
    """Raises unless `value` is a positive integer (or None where optional).

    Raises:
        TypeError: not an int.
        ValueError: below 1.
    """
    if value is None and optional:
        return
    if not is_integer(value):
        raise TypeError(f"{name} must be a positive int; got {shown(value)}")
    check_integer(name, value, 1)


def check_seed(seed: object) -> int:
    """`seed` as an int that a generator takes.

    Raises:
        TypeError: not an int.
        ValueError: negative, or of more than 63 bits.
    """
    if not is_integer(seed):
        raise TypeError(f"seed must be an int, 0 or more; got {shown(seed)}")
    return check_integer("seed", seed, 0)


def check_indices(indices: Iterable[int], n: int) -> list[int]:
    """Indices of some of n samples as a list.

    Raises:
        TypeError: not a sequence of ints.
        ValueError: none, or some outside 0..n-1.
    """
    try:
        given = list(as_tensor("indices", indices))
    except TypeError:
        raise TypeError(f"indices must be a sequence of ints; got {indices!r}") from None
    found = [(i, as_integer(i)) for i in given]
    odd = [i for i, number in found if number is None]
    if odd:
        raise TypeError(f"indices must be ints; got {shown(odd[0])}")
    chosen = [number for _, number in found if number is not None]
    wrong = [i for i in chosen if not 0 <= i < n]
    if not chosen or wrong:
        what = f"{len(wrong)} outside, such as {shown(wrong[0])}" if wrong else "none"
        raise ValueError(f"indices must name samples 0 to {n - 1}; got {what}")
    return chosen
