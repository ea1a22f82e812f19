"""How many labeled samples each class has."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import is_integer
from fishermask_fast.distributed import Part


def check_labels(labels: Any, n: int, n_classes: int | None = None) -> Tensor:
    """Classes of n labeled samples, (n,) int64 on the CPU.

    Args:
        labels: integers, one a sample: a tensor, an array or a list.
        n: samples.
        n_classes: C; None where it is not known yet.

    Raises:
        TypeError: no integers.
        ValueError: of another number or range.
    """
    found = as_tensor("labels", labels)
    if isinstance(found, (list, tuple, range)):
        if not all(map(is_integer, found)):
            wrong = next(each for each in found if not is_integer(each))
            raise TypeError(f"labels must be integers, one a labeled sample; got {wrong!r}")
        found = _from_list(found)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"labels must be integers, one a labeled sample; got {type(labels).__name__}"
        )
    no_integers = found.is_floating_point() or found.is_complex() or found.dtype == torch.bool
    if no_integers and found.numel():
        raise TypeError(f"labels must be integers, one a labeled sample; got {found.dtype}")
    if found.shape != (n,):
        raise ValueError(
            f"labels must have shape ({n},), one a labeled sample; got {tuple(found.shape)}"
        )
    found = found.detach().to("cpu", torch.int64)
    if n and (int(found.min()) < 0 or (n_classes is not None and int(found.max()) >= n_classes)):
        most = "C - 1" if n_classes is None else n_classes - 1
        raise ValueError(
            f"labels must be classes 0..{most}; got {int(found.min())} to {int(found.max())}"
        )
    return found


def _from_list(labels: Sequence[Any]) -> Tensor:
    values = [operator.index(each) for each in labels]
    wrong = [value for value in values if abs(value) >= 2**63]
    if wrong:
        raise ValueError(f"labels must be classes 0..C - 1; got {wrong[0]}")
    return torch.tensor(values, dtype=torch.int64)


def class_counts(part: Part, labels: Any, n_classes: int) -> Tensor:
    """Labeled samples of each class, (C,) float64.

    Args:
        part: the labeled samples of this process.
        labels: (n_L,) of these samples; None to read them from the data set, whose items then are
            pairs of an input and a class.
        n_classes: C.

    Raises:
        TypeError, ValueError: see check_labels, or a data set that holds none.
    """
    found = check_labels(_read(part) if labels is None else labels, len(part), n_classes)
    return found.bincount(minlength=n_classes).double()


def check_labels_of(part: Part, labels: Any, n_outputs: int, *, wanted: bool) -> None:
    """Raise where labels are none of the labeled samples, or are wanted and not there.

    Args:
        part: the labeled samples of this process.
        labels: of these samples; None where nobody gave any.
        n_outputs: of the model; 0 where this process has no samples.
        wanted: whether classes are counted.

    Raises:
        TypeError, ValueError: see check_labels, or what to give.
    """
    if labels is not None:
        check_labels(labels, len(part), (n_outputs or None) if wanted else None)
    elif wanted and len(part):
        _label_of(_samples(part), 0 if part.indices is None else part.indices[0])


def _samples(part: Part) -> Any:
    return part.data.dataset if isinstance(part.data, DataLoader) else part.data


def _read(part: Part) -> list[Any]:
    if not len(part):
        return []
    data = _samples(part)
    samples = range(len(part)) if part.indices is None else part.indices
    return [_label_of(data, at) for at in samples]


def _label_of(data: Any, at: int) -> Any:
    item = None if isinstance(data, Tensor) else data[at]
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise ValueError(
            "class_weight='balanced' needs the labels of the labeled samples: give labels=, or "
            "a data set whose items are pairs of an input and a class"
        )
    label = item[1]
    # A class in a tensor of no axes, as data sets hold it.
    return label.item() if isinstance(label, Tensor) and label.ndim == 0 else label
