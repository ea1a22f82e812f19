"""Which candidates lead a block: the best scores, but not all of them copies of one sample.

A pick takes from its copies what it had to give, so that the next pick is of another kind: leaders
of one kind alone are beaten by those outside, and blocks end after a pick. Copies, also such as
differ a little, are told by the sizes of V_x M^-1 V_x^T and B_x; who leads changes no pick.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Sizes that differ by this share are of two kinds.
_ALIKE = 0.02
# Of one kind so many lead before others come in: as many as a block may pick of it.
_COPIES = 16
_STEPS = 2.0**29
_MULTIPLIER = 1_000_003


def kinds(a: Tensor, b: Tensor) -> Tensor:
    """(N,) int64, mostly equal for candidates that are nearly copies.

    Args:
        a: (N,) tr(V_x M^-1 V_x^T), of either sign.
        b: (N,) |tr B_x|.
    """
    sizes = torch.stack([a.abs(), b, b / a.abs()]).nan_to_num_(0.0).clamp_(1e-300, 1e300)
    cells = (sizes.log_() / _ALIKE).floor_().long()
    return (cells[0] * _MULTIPLIER + cells[1]) * _MULTIPLIER + cells[2]


def has_copies(kinds: Tensor) -> bool:
    """Whether any kind has more members than may lead together; makes the host wait for a GPU."""
    return len(kinds) > _COPIES and int(kinds.unique(return_counts=True)[1].max()) > _COPIES


def best(scores: Tensor, kinds: Tensor | None, size: int) -> Tensor:
    """Indices of `size` candidates that lead, in ascending order.

    The largest scores lead, ties by lowest index, save that none comes after `_COPIES` of its kind
    while others are left.

    Args:
        scores: (N,), minus infinite for those that come last.
        kinds: (N,) int64; None where no kind has more than `_COPIES`.
        size: 0..N.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    chosen = _largest(scores, size)
    if kinds is None or size == len(scores) or not has_copies(kinds[chosen]):
        return chosen
    # Without the last digits, so that rounding does not order copies.
    mantissa, exponent = scores.frexp()
    order = mantissa.mul_(_STEPS).round_().ldexp_(exponent).argsort(descending=True, stable=True)
    by_kind = kinds[order].argsort(stable=True)
    _, counts = kinds[order][by_kind].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.arange(len(scores), device=scores.device)
    copies = torch.empty_like(places).index_copy_(0, by_kind, places - first)
    later = (copies >= _COPIES).long() + 2 * scores[order].isneginf().long()
    return order[later.argsort(stable=True)[:size]].sort().values


def _largest(scores: Tensor, size: int) -> Tensor:
    """Indices of the `size` largest scores, ties by lowest index, in ascending order."""
    n = scores.numel()
    lowest = scores.topk(size).values[-1:]
    above = (scores > lowest).long() + (scores >= lowest).long()
    order = above * n - torch.arange(n, device=scores.device)
    return order.topk(size).indices.sort().values
