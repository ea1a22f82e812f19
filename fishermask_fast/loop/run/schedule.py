"""The first labels, drawn from the pool."""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.options import Schedule


def initial_set(schedule: Schedule, targets: Tensor, seed: int) -> list[int]:
    """Pool indices of the first labels.

    Args:
        schedule: How many, and how drawn.
        targets: int64 (N,), classes of the pool, or what else its labels are.
        seed: Of the draw.

    Raises:
        ValueError: A stratified draw is smaller than the number of classes, or there are none.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    if schedule.initial_draw == "random":
        indices: list[int] = order[: schedule.initial].tolist()
        return indices
    if targets.is_floating_point():
        raise ValueError("a stratified initial_draw needs one class a sample; use random")
    counts = _shares(torch.bincount(targets), schedule.initial)
    drawn = [order[targets[order] == label][:count] for label, count in enumerate(counts)]
    # In the order of the draw, so that classes do not come one after the other.
    indices = order[torch.isin(order, torch.cat(drawn))].tolist()
    return indices


def _shares(available: Tensor, total: int) -> list[int]:
    """Counts that add up to ``total``, in proportion to ``available``, at least one of each.

    One at a time to the class furthest below its share: Webster's method after the first of each.
    """
    counts = (available > 0).long()
    if total < counts.sum():
        raise ValueError(
            f"initial must be at least the {int(counts.sum())} classes for a stratified draw; "
            f"got {total}"
        )
    for _ in range(total - int(counts.sum())):
        quotients = available / (2 * counts + 1)
        quotients[counts >= available] = -1
        counts[quotients.argmax()] += 1
    return [int(count) for count in counts]
