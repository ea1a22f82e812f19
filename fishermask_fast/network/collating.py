"""From a dataset's items to one batch, and whether it holds these items and no others, in order.

A collate function gets items (x_i) and gives the model's inputs, whose row i is taken for x_i. Ones
that leave out samples, repeat some or sort them by length exist, and say nothing; so the number of
rows is compared, and a function that is not torch's own is asked again with the items in orders p:

    rows(collate(x_p(1) .. x_p(n))) = rows(collate(x_1 .. x_n))[p],    p a rotation, p a swap

Where it answers otherwise each time, the same rows in another order are a shuffle. It is asked of
a few batches alone: of the first ones, and of the first ones whose items differ in size, since what
sorts by size leaves others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from fishermask_fast.checks import tensor_kind

Inputs = Tensor | dict[str, Any]
"""What a model is called with: one tensor, or keyword arguments."""


class Keywords(dict[str, Any]):
    """Keyword arguments of a batch, of which some are known to be the same for every sample.

    Attributes:
        shared: names of tensors that do not grow with the batch, such as class weights or an
            adjacency matrix, whatever their length.
    """

    def __init__(self, values: Mapping[str, Any], shared: frozenset[str] = frozenset()) -> None:
        super().__init__(values)
        self.shared = shared

    def with_values(self, values: Mapping[str, Any]) -> Keywords:
        """Other values under the same names."""
        return Keywords(values, self.shared)


# Times that a function is asked whether it draws its rows at random.
_AGAIN = 3
_TRIED = 2  # batches of equal items, and of unequal ones, of which a function is asked again
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


@dataclass
class Collating:
    """A collate function, watched.

    Attributes:
        collate: the function.
        tried: of how many batches it was asked again, by whether their items differed in size.
        shared: names of tensors that do not grow with a batch; None before they are known.
    """

    collate: Callable[[list[Any]], Any]
    tried: dict[bool, int] = field(default_factory=dict)
    shared: frozenset[str] | None = None

    def __call__(self, items: list[Any]) -> Collated:
        given = list(items)  # as collate functions sort their argument in place
        missing = tuple(i for i, item in enumerate(given) if item is None)
        try:
            batch = self._batch(given)
        except Exception as error:
            if missing:
                return Collated(None, len(given), missing)
            if self.collate is not default_collate:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                "the data's samples must be tensors, arrays or numbers of one shape, or tuples or "
                f"dicts of these, as torch's default_collate takes them; got {_named(given[0])}: "
                f"{error}"
            ) from error
        if missing and _rows(batch) != len(given):
            return Collated(None, len(given), missing)
        if self.collate is default_collate:
            return Collated(batch, len(given))
        if self.shared is None:
            self.shared = _shared(self.collate, given, batch)
        shared = self.shared or frozenset()
        batch = _marked(batch, shared)
        in_order = not self._is_new(given) or _keeps_order(self.collate, given, batch, shared)
        return Collated(batch, len(given), in_order=in_order)

    def _is_new(self, items: list[Any]) -> bool:
        """Whether the function's order has to be asked for these items; notes that it was."""
        if len(items) < 2 or all(self.tried.get(kind, 0) >= _TRIED for kind in (False, True)):
            return False
        kind = len({_size(item) for item in items}) > 1
        known = self.tried.get(kind, 0)
        self.tried[kind] = known + 1
        return known < _TRIED

    def _batch(self, items: list[Any]) -> Any:
        if self.collate is not default_collate:
            return self.collate(list(items))
        # Labels may be None, boxes, or of other shapes each: they need not go into a batch.
        inputs = [_input_of(item) for item in items]
        pictures = [item for item in inputs if type(item).__module__.partition(".")[0] == "PIL"]
        if pictures:
            raise TypeError(
                f"samples are PIL images ({type(pictures[0]).__name__}), which no model takes; "
                "give the dataset the transform of evaluation that makes tensors of them, such as "
                "torchvision's weights.transforms(), or ToTensor() after resizing"
            )
        return default_collate(inputs)


def _input_of(item: Any) -> Any:
    """An item without its labels."""
    if isinstance(item, (tuple, list)) and item:
        item = item[0]
    if isinstance(item, Mapping):
        return {key: value for key, value in item.items() if key not in _LABEL_KEYS}
    return item


def _shared(
    collate: Callable[[list[Any]], Any], items: list[Any], batch: object
) -> frozenset[str] | None:
    """Names of a batch's tensors that do not grow with the number of items.

    Told by another batch of one item, or of the one twice; None where that fails, and length alone
    has to tell.
    """
    try:
        inputs = model_inputs(batch)
        if isinstance(inputs, Tensor):
            return frozenset()
        n = 1 if len(items) > 1 else 2
        others = model_inputs(collate([items[0]] * n))
    except Exception:
        return None
    assert isinstance(others, dict)
    tensors = {key for key, value in inputs.items() if isinstance(value, Tensor)}
    grown = {
        key
        for key in tensors
        if is_batched(inputs[key], len(items)) and is_batched(others.get(key), n)
    }
    # A function that gives the same for any items would leave no samples: that is another fault.
    return frozenset(tensors - grown) if grown else frozenset()


def _marked(batch: Any, shared: frozenset[str]) -> Any:
    """The batch's part for the model with what is known of it."""
    inputs = model_inputs(batch)
    return Keywords(inputs, shared) if shared and not isinstance(inputs, Tensor) else batch


def _size(item: object) -> tuple[object, ...]:
    """Shapes and lengths of what an item holds."""
    found: list[object] = []
    for leaf in tree_leaves(_input_of(item)):
        shape = getattr(leaf, "shape", None)
        found.append(len(leaf) if shape is None and hasattr(leaf, "__len__") else shape)
    return tuple(found)


def _named(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item)}"
    return type(item).__name__


def _rows(batch: object) -> int | None:
    try:
        return count_samples(model_inputs(batch))
    except TypeError:
        return None


def _keeps_order(
    collate: Callable[[list[Any]], Any], items: list[Any], batch: object, shared: frozenset[str]
) -> bool:
    """Whether a batch's rows are the items in order, as far as asking again can tell.

    A function that draws numbers into its rows, or that changes its items, answers otherwise each
    time; of it nothing is known.
    """
    n = len(items)
    if n < 2 or _rows(batch) != n:
        return True
    rows = _row_tensors(batch, n)

    def asked(order: list[int]) -> dict[str, Tensor]:
        again = _marked(collate([items[i] for i in order]), shared)
        return _row_tensors(again, len(order))

    try:
        for order in _orders(n):
            found = asked(order)
            off = {key: rows[key] for key in rows if not _equal(rows[key][order], found.get(key))}
            # More than once, as few draws may be the same by chance.
            for _ in range(_AGAIN if off else 0):
                again = asked(list(range(n)))
                off = {key: value for key, value in off.items() if _moved(value, again.get(key))}
            if off:
                return False
    except Exception:
        pass
    return True


def _orders(n: int) -> tuple[list[int], list[int]]:
    """Two orders of n items after which no function but one that keeps the order agrees.

    A rotation and a swap make up every permutation, and only the identity commutes with all of
    three items or more. Of two all permutations commute: there the first is asked for once more.
    Padding to the longest is the same in all of them.
    """
    rotated = [*range(1, n), 0]
    return rotated, [0, 1, 0] if n == 2 else [1, 0, *range(2, n)]


def _moved(rows: Tensor, again: Tensor | None) -> bool:
    """Whether two answers hold the same rows, in whatever order."""
    if again is None or again.shape != rows.shape or again.dtype != rows.dtype:
        return False
    return _sorted_rows(rows) == _sorted_rows(again)


def _sorted_rows(rows: Tensor) -> list[bytes]:
    flat = rows.detach().cpu().contiguous().reshape(len(rows), -1)
    return sorted(row.tobytes() for row in flat.view(torch.uint8).numpy())


def _row_tensors(batch: object, n: int) -> dict[str, Tensor]:
    inputs = model_inputs(batch)
    return {"": inputs} if isinstance(inputs, Tensor) else samples_of(inputs, n)


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


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
        inputs = {key: value for key, value in batch.items() if key not in _LABEL_KEYS}
        return batch.with_values(inputs) if isinstance(batch, Keywords) else inputs
    raise TypeError(
        "a batch must be a Tensor, a tuple or list whose first item is the input, or a dict of "
        f"keyword arguments; got {type(batch).__name__}"
    )


def count_samples(inputs: Inputs) -> int:
    """Samples in a batch: the length of its first tensor that is not shared.

    Raises:
        TypeError: a dict without tensors.
    """
    if isinstance(inputs, Tensor):
        return inputs.shape[0]
    for key, value in inputs.items():
        if isinstance(value, Tensor) and value.ndim and key not in shared_names(inputs):
            return value.shape[0]
    raise TypeError(f"a dict batch must hold a tensor; got keys {sorted(inputs)}")


def shared_names(inputs: Inputs) -> frozenset[str]:
    """Names of keyword arguments that are known to be the same for every sample."""
    return inputs.shared if isinstance(inputs, Keywords) else frozenset()


def samples_of(inputs: dict[str, Any], n: int) -> dict[str, Tensor]:
    """Those keyword arguments of a batch that hold something for each of n samples."""
    return {
        key: value
        for key, value in inputs.items()
        if is_batched(value, n) and key not in shared_names(inputs)
    }


def rebuilt(inputs: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with other values, and what was known of them."""
    return inputs.with_values(values) if isinstance(inputs, Keywords) else values


def is_batched(value: object, n: int) -> bool:
    """Whether `value` is a tensor with a first dimension of n samples."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n


def same_inputs(one: Inputs, other: Inputs) -> bool:
    """Whether two batches hold the same numbers."""
    named = [{"": each} if isinstance(each, Tensor) else each for each in (one, other)]
    return all(
        not isinstance(value, Tensor)
        or (
            isinstance(named[1].get(key), Tensor)
            and value.shape == named[1][key].shape
            and torch.allclose(value, named[1][key], rtol=0.0, atol=0.0, equal_nan=True)
        )
        for key, value in named[0].items()
    )


def check_samples(name: str, values: Tensor, alone: bool = True) -> None:
    """Raises unless a tensor can hold samples, one a row.

    Args:
        name: what to call it.
        values: the tensor.
        alone: whether it is all there is; others may hold constants beside the samples.

    Raises:
        TypeError: a sparse, nested, quantized or meta one.
        ValueError: a scalar, or no samples.
    """
    if values.layout != torch.strided or values.is_nested or values.is_meta or values.is_quantized:
        raise TypeError(f"{name} must be a dense Tensor of numbers; got {tensor_kind(values)}")
    if alone and values.ndim == 0:
        raise ValueError(f"{name} must be a Tensor (N, ...) of samples; got a scalar")
    if alone and len(values) == 0:
        raise ValueError(f"{name} is empty; expected at least one sample")
