"""One active-learning run: data x model x schedule x strategies, round after round.

Every strategy starts from the same initial set and the same first network, and trains a new
network from scratch each round with the same recipe, the same initial weights and the same order
of samples; only the picks differ. All of them go forward round by round, so that each round can
be compared at once.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from fishermask_fast.loop.datasets import LoopData
from fishermask_fast.loop.models import TINY_MODELS, build_model
from fishermask_fast.loop.records import Round, RunFolder
from fishermask_fast.loop.strategies import STRATEGIES, QueryOptions, check
from fishermask_fast.loop.train import (
    Evaluation,
    Recipe,
    Training,
    evaluate,
    limited_threads,
    train_model,
)


@dataclass(frozen=True)
class Schedule:
    """How many labels, when, and from whom.

    Attributes:
        strategies: Names from ``STRATEGIES``, each run on its own copy of the pool.
        initial: Labels of the first training, drawn uniformly.
        per_round: Labels added each round.
        rounds: Rounds after the first training.
        seed: Of everything drawn: initial set, initial weights, order of training, queries.
    """

    strategies: tuple[str, ...] = ("fishermask", "bait", "random")
    initial: int = 20
    per_round: int = 20
    rounds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.strategies:
            raise ValueError("strategies must name at least one strategy; got none")
        for name in self.strategies:
            if name not in STRATEGIES:
                raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}")
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError(f"strategies must differ; got {', '.join(self.strategies)}")
        for name, least in (("initial", 2), ("per_round", 1), ("rounds", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def check_pool(self, size: int) -> None:
        """Raise ValueError where a pool of ``size`` cannot give all the labels."""
        needed = self.initial + self.rounds * self.per_round
        if needed > size:
            raise ValueError(
                f"{self.initial} initial labels and {self.rounds} rounds of {self.per_round} need "
                f"{needed} pool samples; the pool has {size}"
            )


@dataclass
class _Progress:
    """Where one strategy stands: its network and the pool indices that it has labelled."""

    model: nn.Module
    labelled: list[int] = field(default_factory=list)


class Experiment:
    """A run that is ready to go: everything is checked, nothing is trained yet.

    Args:
        data: Pool and test set.
        model: Name for ``build_model``.
        schedule: Strategies, labels and rounds.
        recipe: How to train.
        query: Options of the strategies.
        device: Where networks are trained and queried.

    Raises:
        ValueError: The pool is too small, the model unknown or unfit for the data, or an option
            of a strategy unfit for the model.
    """

    def __init__(
        self,
        data: LoopData,
        model: str,
        schedule: Schedule,
        recipe: Recipe | None = None,
        query: QueryOptions | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        schedule.check_pool(len(data.pool))
        self.data = data
        self.model = model
        self.schedule = schedule
        self.recipe = recipe or Recipe()
        self.query = query or QueryOptions()
        self.device = torch.device(device)
        network = self._build(0)
        for name in schedule.strategies:
            check(name, network, self.query)

    def config(self) -> dict[str, Any]:
        """What the run's folder records of this experiment."""
        return {
            "data": asdict(self.data.options),
            "n_pool": len(self.data.pool),
            "n_test": len(self.data.test),
            "classes": list(self.data.classes),
            "model": self.model,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "schedule": asdict(self.schedule),
            "recipe": asdict(self.recipe),
            "query": asdict(self.query),
        }

    def run(self, folder: RunFolder) -> Iterator[Round]:
        """Run all rounds; each is recorded in ``folder`` and then yielded.

        Round by round, strategies in the order of the schedule. Stopping the iteration early
        leaves a record of the rounds that were whole.
        """
        initial = self._initial_set()
        first = _Progress(self._build(0), initial)
        outcome = self._train_and_evaluate(first, 0)
        states: dict[str, _Progress] = {}
        for name in self.schedule.strategies:
            states[name] = _Progress(copy.deepcopy(first.model), list(initial))
            yield self._record(folder, name, 0, initial, states[name], outcome, {})
        for number in range(1, self.schedule.rounds + 1):
            for name in self.schedule.strategies:
                state = states[name]
                picks, info = self._pick(name, state, number)
                state.labelled += picks
                state.model = self._build(number)
                outcome = self._train_and_evaluate(state, number)
                yield self._record(folder, name, number, picks, state, outcome, info)

    def _initial_set(self) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed(0, "initial"))
        order = torch.randperm(len(self.data.pool), generator=generator)
        return order[: self.schedule.initial].tolist()

    def _build(self, number: int) -> nn.Module:
        seed = self._seed(number, "weights")
        model = build_model(self.model, len(self.data.classes), self.data.image_shape, seed)
        return model.to(self.device)

    def _seed(self, number: int, purpose: str) -> int:
        """A seed for one purpose of one round, independent of the others."""
        purposes = ("initial", "weights", "training", "query")
        sequence = np.random.SeedSequence([self.schedule.seed, number, purposes.index(purpose)])
        return int(sequence.generate_state(1)[0])

    def _pick(self, name: str, state: _Progress, number: int) -> tuple[list[int], dict[str, Any]]:
        taken = torch.zeros(len(self.data.pool), dtype=torch.bool)
        taken[state.labelled] = True
        unlabelled = (~taken).nonzero().flatten()
        start = time.perf_counter()
        picks = STRATEGIES[name](
            state.model,
            Subset(self.data.pool, unlabelled.tolist()),
            Subset(self.data.pool, state.labelled),
            self.schedule.per_round,
            self._seed(number, "query"),
            self.query,
        )
        info = dict(picks.info)
        steps = {f"query/{step}": value for step, value in info.pop("seconds", {}).items()}
        info["seconds"] = {"query": time.perf_counter() - start, **steps}
        indices = unlabelled[picks.indices]
        if len(indices.unique()) != self.schedule.per_round:
            raise RuntimeError(
                f"{name} must return {self.schedule.per_round} different indices; "
                f"got {len(indices)}, {len(indices.unique())} of them different"
            )
        return indices.tolist(), info

    def _train_and_evaluate(
        self, state: _Progress, number: int
    ) -> tuple[Training, Evaluation, dict[str, float]]:
        start = time.perf_counter()
        # Steps of the smallest networks are too short for threads to be worth waking.
        with limited_threads(1 if self.model in TINY_MODELS else torch.get_num_threads()):
            training = train_model(
                state.model,
                self.data.training_set(torch.tensor(state.labelled)),
                Subset(self.data.pool, state.labelled),
                self.recipe,
                seed=self._seed(number, "training"),
            )
        trained = time.perf_counter()
        evaluation = evaluate(state.model, self.data.test, len(self.data.classes))
        seconds = {"train": trained - start, "evaluate": time.perf_counter() - trained}
        return training, evaluation, seconds

    def _record(
        self,
        folder: RunFolder,
        name: str,
        number: int,
        picks: list[int],
        state: _Progress,
        outcome: tuple[Training, Evaluation, dict[str, float]],
        info: dict[str, Any],
    ) -> Round:
        training, evaluation, seconds = outcome
        entry = Round(
            strategy=name,
            seed=self.schedule.seed,
            round=number,
            picks=picks,
            n_labeled=len(state.labelled),
            accuracy=evaluation.accuracy,
            class_accuracy=[None if math.isnan(a) else a for a in evaluation.class_accuracy],
            label_counts=_count(self.data.pool.targets[picks], len(self.data.classes)),
            training=asdict(training),
            seconds={**info.pop("seconds", {}), **seconds},
            query=info,
        )
        folder.append(entry)
        return entry


def _count(targets: Tensor, n_classes: int) -> list[int]:
    counts: list[int] = torch.bincount(targets, minlength=n_classes).tolist()
    return counts
