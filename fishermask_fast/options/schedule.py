"""How many labels, when, from whom, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from fishermask_fast.options.picking import AS_TYPED

DrawName = Literal["random", "stratified"]
DRAWS: tuple[str, ...] = get_args(DrawName)


@Parameter(name="*", group="Loop")
@dataclass(frozen=True)
class Schedule:
    """The course of a run.

    Attributes:
        strategies: all, or some of fishermask, fishermask_entropy, fishermask_coverage, bait,
            random, entropy, margin, least_confidence, coreset, badge, uherding, typiclust and of a
            file's variants, to be compared; each has its own copy of the pool.
        initial: Labels of the first training.
        initial_draw: Uniformly, or of each class its share of the pool and at least one.
        per_round: Labels added each round.
        rounds: Rounds after the first training.
        stop_labels: Stop a strategy at so many labels; its last batch is cut to fit.
        stop_accuracy: Stop a strategy at this test accuracy.
        seed: Of everything drawn: initial set, initial weights, order of training, queries.
    """

    strategies: Annotated[tuple[str, ...], Parameter(name="--strategy"), AS_TYPED] = (
        "fishermask",
        "bait",
        "random",
    )
    initial: int = 20
    initial_draw: DrawName = "random"
    per_round: int = 20
    rounds: int = 4
    stop_labels: int | None = None
    stop_accuracy: float | None = None
    seed: Annotated[int, Parameter(parse=False)] = 0

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

    def is_done(self, n_labeled: int, accuracy: float) -> bool:
        """Whether a strategy stops before its rounds are over."""
        return (self.stop_labels is not None and n_labeled >= self.stop_labels) or (
            self.stop_accuracy is not None and accuracy >= self.stop_accuracy
        )

    def batch(self, n_labeled: int) -> int:
        """Labels to add to ``n_labeled``."""
        if self.stop_labels is None:
            return self.per_round
        return min(self.per_round, self.stop_labels - n_labeled)
