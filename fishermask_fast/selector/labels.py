"""How many labeled samples each class has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fishermask_fast.arrays import as_tensor
from fishermask_fast.distributed import Part


def class_counts(part: Part, labels: Any, n_classes: int) -> Tensor:
    """Labeled samples of each class, (C,) float64.

    Args:
        part: the labeled samples of this process.
        labels: (n_L,) of these samples; None to read them from the data set, whose items then are
            pairs of an input and a class.
        n_classes: C.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels of another number or range, or a data set that holds none.
    """
    if labels is None:
        labels = _read(part)
    found = as_tensor("labels", labels)
    if not isinstance(found, Tensor):
        found = torch.tensor(found)
    if found.numel() and (found.is_floating_point() or found.dtype == torch.bool):
        raise TypeError(f"labels must be integers, one a labeled sample; got {found.dtype}")
    if found.shape != (len(part),):
        raise ValueError(
            f"labels must have shape ({len(part)},), one a labeled sample; got {tuple(found.shape)}"
        )
    found = found.long()
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < n_classes:
        raise ValueError(
            f"labels must be classes 0..{n_classes - 1}; got {int(found.min())} to "
            f"{int(found.max())}"
        )
    return found.bincount(minlength=n_classes).double()


def _read(part: Part) -> list[int]:
    data = part.data.dataset if isinstance(part.data, DataLoader) else part.data
    if not len(part):
        return []
    samples = range(len(part)) if part.indices is None else part.indices
    found = []
    for at in samples:
        item = None if isinstance(data, Tensor) else data[at]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise ValueError(
                "class_weight='balanced' needs the labels of the labeled samples: give labels=, or "
                "a data set whose items are pairs of an input and a class"
            )
        found.append(int(item[1]))
    return found
