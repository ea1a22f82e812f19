"""From a dataset's items to one batch, and whether it holds these items and no others, in order.

A collate function gets items (x_i) and gives the model's inputs, whose row i is taken for x_i. Ones
that leave out samples, repeat some or sort them by length exist, and say nothing; so the number of
rows is compared, and a function that is not torch's own is asked once more with the items reversed:

    rows(collate(x_n .. x_1)) = rows(collate(x_1 .. x_n)) reversed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

Inputs = Tensor | dict[str, Any]
"""What a model is called with: one tensor, or keyword arguments."""

_LABEL_KEYS = ("labels", "label", "target", "targets")


@dataclass(frozen=True)
class Collated:
    """One batch as a worker hands it over.

    Attributes:
        batch: what the collate function made of the items; None where items are missing.
        n_items: how many items the dataset gave.
        missing: places in the batch at which the dataset gave None and the collate function made
            no row of it.
        in_order: False where rows are known not to be the items in their order.
    """

    batch: Any
    n_items: int
    missing: tuple[int, ...] = ()
    in_order: bool = True


@dataclass(frozen=True)
class Collating:
    """A collate function, watched."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Collated:
        given = list(items)  # as collate functions sort their argument in place
        missing = tuple(i for i, item in enumerate(given) if item is None)
        try:
            batch = self.collate(list(given))
        except Exception:
            if missing:
                return Collated(None, len(given), missing)
            raise
        if missing and _rows(batch) != len(given):
            return Collated(None, len(given), missing)
        in_order = self.collate is default_collate or _keeps_order(self.collate, given, batch)
        return Collated(batch, len(given), in_order=in_order)


def _rows(batch: object) -> int | None:
    try:
        return count_samples(model_inputs(batch))
    except TypeError:
        return None


def _keeps_order(collate: Callable[[list[Any]], Any], items: list[Any], batch: object) -> bool:
    """Whether a batch's rows are the items in order, as far as asking again can tell.

    A function that draws at random, or that changes its items, answers otherwise each time; of it
    nothing is known.
    """
    if len(items) < 2 or _rows(batch) != len(items):
        return True
    try:
        mirrored = collate(items[::-1])
        if _same_rows(batch, mirrored, len(items), reverse=True):
            return True
        return not _same_rows(batch, collate(list(items)), len(items), reverse=False)
    except Exception:
        return True


def _same_rows(batch: object, other: object, n: int, *, reverse: bool) -> bool:
    left, right = _row_tensors(batch, n), _row_tensors(other, n)
    if left.keys() != right.keys():
        return False
    return all(
        _equal(value, right[key].flip(0) if reverse else right[key]) for key, value in left.items()
    )


def _row_tensors(batch: object, n: int) -> dict[str, Tensor]:
    inputs = model_inputs(batch)
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    return {key: value for key, value in named.items() if is_batched(value, n)}


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def model_inputs(batch: object) -> Inputs:
    """The part of a batch that goes into the model.

    Raises:
        TypeError: a batch that is no tensor, no tuple or list, and no dict.
    """
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _LABEL_KEYS}
    raise TypeError(
        "a batch must be a Tensor, a tuple or list whose first item is the input, or a dict of "
        f"keyword arguments; got {type(batch).__name__}"
    )


def count_samples(inputs: Inputs) -> int:
    """Samples in a batch: the length of its first tensor.

    Raises:
        TypeError: a dict without tensors.
    """
    if isinstance(inputs, Tensor):
        return inputs.shape[0]
    for value in inputs.values():
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
    raise TypeError(f"a dict batch must hold a tensor; got keys {sorted(inputs)}")


def is_batched(value: object, n: int) -> bool:
    """Whether `value` is a tensor with a first dimension of n samples."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n
