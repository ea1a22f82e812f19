"""What a mask must be, and what it is made from: a share, scores, positions, shapes.

A mask is the set {(l, i)} of positions i in tensors l, with 0 <= i < size of l, each at most once;
kept tensor by tensor in ascending order, so that columns have one order and no duplicate.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fishermask_fast.checks import is_integer, shown

_MOST = 2**62  # elements, of which torch counts no more

Shapes = Mapping[str, tuple[int, ...]]


def check_masked(shapes: Shapes, indices: Mapping[str, Tensor], head_names: Sequence[str]) -> None:
    """Raises unless `indices` are ascending positions (m,) int64 within tensors of `shapes`.

    Raises:
        TypeError: names that are no texts, shapes that are no integers, or positions of another
            type.
        ValueError: positions out of place, or shapes that no tensor can have.
    """
    if not isinstance(shapes, Mapping) or not isinstance(indices, Mapping):
        raise TypeError("a mask's shapes and indices must be mappings from names of parameters")
    if isinstance(head_names, str) or not isinstance(head_names, Sequence):
        raise TypeError(f"head_names must be a sequence of names; got {head_names!r}")
    if not all(isinstance(name, str) for name in (*shapes, *indices, *head_names)):
        raise TypeError("a mask's names must be texts")
    for name, shape in shapes.items():
        _check_shape(name, shape)
    unknown = [name for name in (*indices, *head_names) if name not in shapes]
    if unknown:
        raise ValueError(f"a mask's names must be among its shapes; {unknown[0]} is not")
    for name, index in indices.items():
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            got = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"indices of {name} must be an int64 tensor; got {got}")
        size = math.prod(shapes[name])
        if index.ndim != 1 or bool((index.diff() <= 0).any()):
            raise ValueError(f"indices of {name} must be (m,) and ascend without repetition")
        if index.numel() and not 0 <= int(index[0]) <= int(index[-1]) < size:
            raise ValueError(
                f"indices of {name} must be 0 to {size - 1}; got {int(index[0])} to "
                f"{int(index[-1])}"
            )
    if not any(index.numel() for index in indices.values()):
        raise ValueError("a mask must hold at least one parameter; got none")


def _check_shape(name: str, shape: object) -> None:
    if not isinstance(shape, Sequence) or not all(map(is_integer, shape)):
        raise TypeError(f"the shape of {name} must be a tuple of integers; got {shape!r}")
    if any(size < 0 for size in shape) or math.prod(shape) > _MOST:
        raise ValueError(f"{name} cannot have shape {tuple(shape)}")


def check_share(fraction: float) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, numbers.Real):
        raise TypeError(f"fraction must be a number in (0, 1]; got {shown(fraction)}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1]; got {shown(fraction)}")


def check_scores(scores: Mapping[str, Tensor]) -> None:
    if not isinstance(scores, Mapping) or not all(isinstance(s, Tensor) for s in scores.values()):
        raise TypeError("scores must map parameter names to tensors, as fisher_diagonal gives them")
    if odd := [name for name in scores if not isinstance(name, str)]:
        raise TypeError(f"scores must map names of parameters to tensors; got the name {odd[0]!r}")
    if not scores:
        raise ValueError("scores must hold at least one tensor; got none")
    for name, score in scores.items():
        if not score.is_floating_point():
            raise TypeError(f"scores must be floating-point tensors; {name} is {score.dtype}")
        bad = (~score.isfinite()).flatten().nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"scores must be finite; {len(bad)} of {name}'s {score.numel()} are NaN or Inf, "
                f"the first at {int(bad[0])}"
            )


def check_same_shapes(ours: Shapes, theirs: Shapes, them: str, us: str) -> None:
    if dict(ours) == dict(theirs):
        return
    missing = [name for name in ours if name not in theirs]
    unknown = [name for name in theirs if name not in ours]
    differ = [n for n in ours if n in theirs and tuple(ours[n]) != tuple(theirs[n])]
    if missing:
        detail = f"{len(missing)} tensors such as {missing[0]} are not in {them} or frozen there"
    elif unknown:
        detail = f"{len(unknown)} tensors of {them} such as {unknown[0]} are not in {us}"
    else:
        name = differ[0]
        detail = f"{name} is {tuple(theirs[name])} in {them} and {tuple(ours[name])} in {us}"
    raise ValueError(f"{us} was made for another model: {detail}")
