"""How many labels, when, from whom, and until when."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = ("random", "stratified")


@dataclass(frozen=True)
class Schedule:
    """The course of a run.

    Attributes:
        strategies: Names of strategies, each run on its own copy of the pool.
        initial: Labels of the first training.
        initial_draw: ``"random"``: uniformly; ``"stratified"``: of each class its share of the
            pool, and at least one.
        per_round: Labels added each round.
        rounds: Rounds after the first training.
        stop_labels: A strategy stops at so many labels; its last batch is cut to fit.
        stop_accuracy: A strategy stops once it tests at this accuracy.
        seed: Of everything drawn: initial set, initial weights, order of training, queries.
    """

    strategies: tuple[str, ...] = ("fishermask", "bait", "random")
    initial: int = 20
    initial_draw: str = "random"
    per_round: int = 20
    rounds: int = 4
    stop_labels: int | None = None
    stop_accuracy: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.strategies:
            raise ValueError("strategies must name at least one strategy; got none")
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError(f"strategies must differ; got {', '.join(self.strategies)}")
        for name, least in (("initial", 2), ("per_round", 1), ("rounds", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.initial_draw not in DRAWS:
            raise ValueError(
                f"initial_draw must be one of {', '.join(DRAWS)}; got {self.initial_draw!r}"
            )
        if self.stop_labels is not None and self.stop_labels < self.initial:
            raise ValueError(
                f"stop_labels must be at least the {self.initial} initial labels; "
                f"got {self.stop_labels}"
            )
        if self.stop_accuracy is not None and not 0 < self.stop_accuracy <= 1:
            raise ValueError(f"stop_accuracy must be in (0, 1]; got {self.stop_accuracy}")

    def check_pool(self, size: int) -> None:
        """Raise ValueError where a pool of ``size`` cannot give all the labels."""
        needed = self.initial + self.rounds * self.per_round
        if self.stop_labels is not None:
            needed = min(needed, self.stop_labels)
        if needed > size:
            raise ValueError(
                f"{self.initial} initial labels and {self.rounds} rounds of {self.per_round} need "
                f"{needed} pool samples; the pool has {size}"
            )

    def is_done(self, n_labelled: int, accuracy: float) -> bool:
        """Whether a strategy stops before its rounds are over."""
        return (self.stop_labels is not None and n_labelled >= self.stop_labels) or (
            self.stop_accuracy is not None and accuracy >= self.stop_accuracy
        )

    def batch(self, n_labelled: int) -> int:
        """Labels to add to ``n_labelled``."""
        if self.stop_labels is None:
            return self.per_round
        return min(self.per_round, self.stop_labels - n_labelled)


def initial_set(schedule: Schedule, targets: Tensor, seed: int) -> list[int]:
    """Pool indices of the first labels.

    Args:
        schedule: How many, and how drawn.
        targets: int64 (N,), classes of the pool.
        seed: Of the draw.

    Raises:
        ValueError: A stratified draw is smaller than the number of classes.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    if schedule.initial_draw == "random":
        indices: list[int] = order[: schedule.initial].tolist()
        return indices
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
