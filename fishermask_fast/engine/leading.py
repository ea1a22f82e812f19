"""Which candidates lead a block: the best scores, but not all of them copies of one sample.

A pick takes from its copies what it had to give, so that the next pick is of another kind: leaders
of one kind alone are beaten by those outside, and blocks end after a pick. So do blocks whose
winner has copies outside that differ by less than a running score is off, and that only a look at
all of them tells apart. Copies are told by the sizes of V_x M^-1 V_x^T and B_x, in three grades:

    alike    about as large: few of them lead
    near     too near for running scores to tell apart: all of them lead, or none
    equal    the same numbers: as many lead as a block may pick

Who leads changes no pick.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Sizes that differ by less than this share, for each grade.
_GRADES = (0.02, 1e-5, 1e-12)
# Of one kind so many lead before others come in: as many as a block may pick of it.
_COPIES = 16
# Leaders where samples have near copies: so many at least, or so large a share of all.
_LEADERS, _LEADERS_SHARE = 512, 8
_STEPS = 2.0**29
_MULTIPLIER = 1_000_003


def kinds(a: Tensor, b: Tensor) -> Tensor:
    """(N, 3) int64, mostly equal for candidates that are alike, near and equal.

    Args:
        a: (N,) tr(V_x M^-1 V_x^T), of either sign.
        b: (N,) |tr B_x|.
    """
    sizes = torch.stack([a.abs(), b, b / a.abs()]).nan_to_num_(0.0).clamp_(1e-300, 1e300).log_()
    found = []
    for grade in _GRADES:
        cells = (sizes / grade).floor_().long()
        found.append((cells[0] * _MULTIPLIER + cells[1]) * _MULTIPLIER + cells[2])
    return torch.stack(found, 1)


def has_copies(kinds: Tensor) -> bool:
    """Whether any kind has more members than may lead together; makes the host wait for a GPU."""
    return len(kinds) > _COPIES and int(_sizes(kinds[:, 0]).max()) > _COPIES


def how_many(kinds: Tensor, most: int) -> int:
    """How many should lead at least, because samples have near copies; never above `most`."""
    near, equal = kinds[:, 1].unique(return_inverse=True)[1], kinds[:, 2]
    pairs = torch.stack([near, equal], 1).unique(dim=0)
    if int(_sizes(pairs[:, 0]).max()) < 2:
        return 0
    return min(max(_LEADERS, len(kinds) // _LEADERS_SHARE), most, len(kinds))


def best(scores: Tensor, kinds: Tensor | None, size: int, among: int | None = None) -> Tensor:
    """Indices of `size` candidates that lead, in ascending order.

    The largest scores lead, ties by lowest index, save that near copies lead together, and that
    none comes after `_COPIES` near kinds of its own or equal samples while others are left.

    Args:
        scores: (N,), minus infinite for those that come last.
        kinds: (N, 3) int64; None where no kind has more than `_COPIES`.
        size: 0..N.
        among: look at so many of the largest scores alone, on the host: a GPU is asked for each of
            many small sorts. None for all, where they are.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    if kinds is not None and among is not None:
        top = _largest(scores, min(max(among, size), len(scores)))
        return top[best(scores[top].cpu(), kinds[top].cpu(), size).to(top.device)]
    chosen = _largest(scores, size)
    if kinds is None or size == len(scores) or not has_copies(kinds[chosen]):
        return chosen
    # Without the last digits, so that rounding does not order copies.
    mantissa, exponent = scores.frexp()
    order = mantissa.mul_(_STEPS).round_().ldexp_(exponent).argsort(descending=True, stable=True)
    alike, near, equal = kinds[order].unbind(1)
    later = (_ranks(equal) >= _COPIES).long()
    # Near copies come where the first of them does.
    first = _first(near)
    places = torch.arange(len(first), device=first.device)
    # Each group of near copies counts once among those that are alike.
    groups = _ranks(torch.where(first == places, alike, -1 - places))
    later |= groups[first] >= _COPIES
    later += 2 * scores[order].isneginf().long()
    together = first.argsort(stable=True)
    return order[together[later[together].argsort(stable=True)[:size]]].sort().values


def _sizes(kinds: Tensor) -> Tensor:
    counts: Tensor = kinds.unique(return_counts=True)[1]
    return counts


def _grouped(kinds: Tensor) -> tuple[Tensor, Tensor]:
    """An order in which equal ones follow one another, and where the group of each begins in it."""
    by_kind = kinds.argsort(stable=True)
    _, counts = kinds[by_kind].unique_consecutive(return_counts=True)
    return by_kind, (counts.cumsum(0) - counts).repeat_interleave(counts)


def _ranks(kinds: Tensor) -> Tensor:
    """How many equal ones come before each."""
    by_kind, starts = _grouped(kinds)
    places = torch.arange(len(kinds), device=kinds.device)
    return torch.empty_like(places).index_copy_(0, by_kind, places - starts)


def _first(kinds: Tensor) -> Tensor:
    """The place of the first that equals each."""
    by_kind, starts = _grouped(kinds)
    return torch.empty_like(by_kind).index_copy_(0, by_kind, by_kind[starts])


def _largest(scores: Tensor, size: int) -> Tensor:
    """Indices of the `size` largest scores, ties by lowest index, in ascending order."""
    n = scores.numel()
    lowest = scores.topk(size).values[-1:]
    above = (scores > lowest).long() + (scores >= lowest).long()
    order = above * n - torch.arange(n, device=scores.device)
    return order.topk(size).indices.sort().values
