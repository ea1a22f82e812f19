"""How many parameters a mask holds: by the model alone, never by what memory happens to be free.

    k = floor(fraction P)                         where a fraction is given
    k = n_parameters                              where a number is given
    k = min(max(0.002 P, 2 H), max(4096, H + 512))    where neither is, H the size of the head

The last is the paper's fraction, with room beside the head in small networks, and bounded in large
ones, since M takes k^2 numbers and k^3 products. A head of more than 4,096 parameters is not kept
whole then: its entries compete with all others for 4,096. Where no head is known k is at least 512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from fishermask_fast.checks import shown
from fishermask_fast.masks.checks import Shapes, check_share
from fishermask_fast.network import Head, check_count, head_parameters, trainable, unwrap

FRACTION = 0.002
LARGEST, BESIDE_HEAD = 4096, 512


@dataclass(frozen=True)
class MaskSize:
    """How large a mask is to be.

    Attributes:
        k: parameters that it holds.
        keep_head: whether the head is kept whole.
        reason: why so many, in a few words.
    """

    k: int
    keep_head: bool
    reason: str


def mask_size(
    total: int,
    n_head: int,
    fraction: float | None = None,
    n_parameters: int | None = None,
    keep_head: bool = True,
) -> MaskSize:
    """How many of a model's parameters a mask holds.

    Args:
        total: P, all parameters that a mask may hold.
        n_head: H, those of the head; 0 where there is none.
        fraction: share of the parameters, in (0, 1].
        n_parameters: how many, at most P.
        keep_head: whether the head is to be kept whole.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: both are given, or one out of range, or fewer than the head that is kept.
    """
    check_size(fraction, n_parameters)
    if fraction is None and n_parameters is None:
        return _default_size(total, n_head, keep_head)
    least = max(n_head if keep_head else 0, 1)
    what = f"the head's {n_head} parameters" if keep_head and n_head else "one parameter"
    remedy = ", or keep_head=False" if keep_head and n_head else ""
    if n_parameters is not None:
        k = int(n_parameters)
        if k > total:
            raise ValueError(f"n_parameters must be at most the model's {total}; got {k}")
        if k < least:
            raise ValueError(
                f"n_parameters = {k} are fewer than {what}; use n_parameters >= {least}{remedy}"
            )
        return MaskSize(k, keep_head, "as n_parameters says")
    assert fraction is not None
    k = math.floor(share_of(fraction, total))
    if k < least:
        need = math.ceil(least / total * 1e6) / 1e6
        raise ValueError(
            f"fraction {fraction} of {total} parameters is k = {k}, fewer than {what}; "
            f"use fraction >= {need}{remedy}"
        )
    return MaskSize(k, keep_head, f"fraction {fraction:g} of {total:,}")


def _default_size(total: int, n_head: int, keep_head: bool) -> MaskSize:
    published = math.floor(share_of(FRACTION, total))
    most = max(LARGEST, n_head + BESIDE_HEAD)
    told = f"{FRACTION} of {total:,} parameters would be {published:,}"
    if n_head > LARGEST:
        k, keep_head = LARGEST, False
        reason = f"the default's most: the head's {n_head:,} compete like all others for them"
    elif published > most:
        k = most
        reason = f"the default's most; {told}"
    elif published < 2 * n_head:
        k = min(2 * n_head, total, most)
        reason = f"room beside the head's {n_head:,}; {told}"
    elif not n_head and published < BESIDE_HEAD:
        k = min(BESIDE_HEAD, total)
        reason = f"the default's least where no head is known; {told}"
    else:
        k, reason = published, f"{FRACTION} of {total:,} parameters, the published share"
    return MaskSize(k, keep_head, reason)


def check_size(fraction: float | None, n_parameters: int | None) -> None:
    """Raise unless at most one of them is given, and in range for some model.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: both are given, or one out of range.
    """
    if fraction is not None and n_parameters is not None:
        raise ValueError(
            f"give fraction or n_parameters, not both; got {shown(fraction)} and "
            f"{shown(n_parameters)}"
        )
    if fraction is not None:
        check_share(fraction)
    check_count("n_parameters", n_parameters)


def share_of(fraction: float, size: int) -> float:
    """fraction * size without the last bits that would move a whole number down or up."""
    return round(fraction * size, 9)


def size_of_mask(
    model: nn.Module,
    head: Head | None,
    fraction: float | None,
    n_parameters: int | None,
    method: str = "global",
    keep_head: bool = True,
) -> MaskSize | None:
    """What `from_scores` or `random` will hold, before any gradient is taken.

    None where that depends on the scores ("relative").

    Raises:
        TypeError: a number of the wrong type.
        ValueError: as `mask_size`, or "middle" of a model without other layers than the head.
    """
    check_size(fraction, n_parameters)
    if method == "relative":
        return None
    shapes = shapes_of(model)
    names = () if head is None else head_parameters(model, head)
    n_head = sum(math.prod(shapes[name]) for name in names)
    if method == "head":
        return MaskSize(n_head, True, "the whole head")
    if method == "middle":
        return _size_without_head(total_size(shapes), n_head, fraction, n_parameters)
    if method == "per_layer" and fraction is not None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        others = (s for name, s in sizes.items() if not (keep_head and name in names))
        k = n_head * keep_head + sum(math.ceil(share_of(fraction, size)) for size in others)
        return MaskSize(k, keep_head, f"fraction {fraction:g} of each tensor")
    return mask_size(total_size(shapes), n_head, fraction, n_parameters, keep_head)


def _size_without_head(
    total: int, n_head: int, fraction: float | None, n_parameters: int | None
) -> MaskSize:
    """Of a mask that holds nothing of the head: as many, if the other layers have them."""
    others = total - n_head
    if not others:
        raise ValueError('mask "middle" needs trainable parameters outside the head; it has none')
    size = mask_size(total, n_head, fraction, n_parameters, False)
    if size.k <= others:
        return size
    if fraction is None and n_parameters is None:
        return MaskSize(others, False, "all outside the head")
    raise ValueError(
        f'mask "middle" holds at most the {others} parameters outside the head; got k = {size.k}'
    )


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """name -> shape of every trainable parameter."""
    return {name: tuple(p.shape) for name, p in trainable(unwrap(model)).items()}


def total_size(shapes: Shapes) -> int:
    """P, how many numbers all of them have."""
    return sum(math.prod(shape) for shape in shapes.values())
