"""Which entries a mask takes: of each tensor, sorted flat positions.

    global     the head, then the largest f_i of all other tensors until k are reached
    per_layer  the ceil(fraction size) largest of each tensor, and the head; where k is given
               instead, one of each tensor and then in proportion to sizes
    relative   in each tensor the entries above twice its mean, at most 2.5% of it, and the head

Ties go to the lowest position.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from fishermask_fast.masks.size import mask_size, share_of

METHODS = ("global", "per_layer", "relative")
_RELATIVE_ABOVE = 2.0
_RELATIVE_MOST = 0.025
_PIECE = 2**20  # numbers that are ranked at a time


def choose(
    flat: dict[str, Tensor],  # name -> (size,)
    method: str,
    head_names: tuple[str, ...],
    fraction: float | None,
    n_parameters: int | None,
    keep_head: bool,
) -> tuple[dict[str, Tensor], str]:
    """Sorted positions of each tensor's masked entries, and why so many."""
    sizes = {name: score.numel() for name, score in flat.items()}
    n_head = sum(sizes[name] for name in head_names)
    reason = "entries that stand out from their tensor"
    if method == "relative":
        chosen = {name: relative(score) for name, score in flat.items()}
    elif method == "per_layer" and fraction is not None:
        counts = shares_of_tensors(sizes, fraction)
        chosen = {name: largest(score, counts[name]) for name, score in flat.items()}
        reason = f"fraction {fraction:g} of each tensor"
    else:
        size = mask_size(sum(sizes.values()), n_head, fraction, n_parameters, keep_head)
        keep_head, reason = size.keep_head, size.reason
        others = without(flat, head_names if keep_head else ())
        count = size.k - (n_head if keep_head else 0)
        if method == "global":
            chosen = largest_of_all(others, count)
        else:
            parts = parts_of_tensors({name: sizes[name] for name in others}, count)
            chosen = {name: largest(score, parts[name]) for name, score in others.items()}
    if keep_head:
        chosen |= {name: torch.arange(sizes[name]) for name in head_names}
    return chosen, reason


def largest_of_all(flat: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The `count` largest entries of all tensors together."""
    if count == 0:
        return {}
    least = _threshold(flat.values(), count)
    above = {name: (score > least).nonzero().flatten() for name, score in flat.items()}
    ties = count - sum(map(len, above.values()))
    chosen = {}
    for name, score in flat.items():
        level = (score == least).nonzero().flatten()[:ties]
        ties -= len(level)
        chosen[name] = torch.cat([above[name], level]).sort().values
    return chosen


def _threshold(scores: Iterable[Tensor], count: int) -> Tensor:
    """The `count`-th largest score, found without a copy of them all."""
    kept: Tensor | None = None
    for score in scores:
        for piece in score.split(max(_PIECE, count)):
            piece = piece.topk(min(count, len(piece))).values
            kept = piece if kept is None else torch.cat([kept, piece])
            kept = kept.topk(min(count, len(kept))).values
    assert kept is not None
    return kept.min()


def largest(score: Tensor, count: int) -> Tensor:
    """Sorted positions of the `count` largest entries of one tensor."""
    return largest_of_all({"": score}, count).get("", torch.empty(0, dtype=torch.int64))


def shares_of_tensors(sizes: dict[str, int], fraction: float) -> dict[str, int]:
    """ceil(fraction size) of each tensor."""
    return {name: math.ceil(share_of(fraction, size)) for name, size in sizes.items()}


def parts_of_tensors(sizes: dict[str, int], count: int) -> dict[str, int]:
    """`count` in all: one of each tensor where that many there are, the rest in proportion."""
    each = int(count >= len(sizes))
    rest, total = count - each * len(sizes), sum(sizes.values()) - each * len(sizes)
    parts, seen, given = {}, 0, 0
    for name, size in sizes.items():
        seen += size - each
        upto = rest * seen // max(total, 1)
        parts[name] = each + upto - given
        given = upto
    return parts


def relative(score: Tensor) -> Tensor:
    """Sorted positions of the entries that stand out from their tensor."""
    above = int((score > _RELATIVE_ABOVE * score.double().mean()).sum())
    return largest(score, min(above, most_relative(score.numel())))


def most_relative(size: int) -> int:
    """The most entries of a tensor that "relative" takes."""
    return math.floor(share_of(_RELATIVE_MOST, size))


def without(flat: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The other tensors."""
    return {name: score for name, score in flat.items() if name not in names}
