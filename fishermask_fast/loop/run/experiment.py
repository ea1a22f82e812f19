"""One active-learning run: data x model x schedule x strategies, round after round.

Every strategy starts from the same initial set and the same first network, and trains with the
same recipe, the same initial weights and the same order of samples; only the picks differ. All of
them go forward round by round, so that each round can be compared at once. Everything drawn has a
seed of its own, made of the run's seed, the round and the purpose, so that a run which goes on
from its record makes the picks that it would have made.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import pickle
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from fishermask_fast.datasets import PoolAndTest
from fishermask_fast.files import check_name
from fishermask_fast.loop.records import RunFolder
from fishermask_fast.loop.rounds import Round
from fishermask_fast.loop.run.schedule import initial_set
from fishermask_fast.loop.run.tasks import TASKS
from fishermask_fast.loop.run.train import (
    Evaluation,
    Training,
    evaluate,
    limited_threads,
    train_model,
    try_training,
)
from fishermask_fast.masks import FisherMask
from fishermask_fast.models import TINY_MODELS, build_model
from fishermask_fast.options import (
    LikelihoodName,
    QueryOptions,
    Recipe,
    Schedule,
    Variant,
    meant,
)
from fishermask_fast.strategies import STRATEGIES, Picks, announce, check, estimated, unread

logger = logging.getLogger(__name__)

WORTH_SAYING = 10.0
"""Seconds that a query may take before anybody wants to know it beforehand."""

_UNREADABLE = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    pickle.UnpicklingError,
)


@dataclass
class _State:
    """Where one strategy stands: its network, the pool indices it has labeled, its last mask."""

    model: nn.Module
    labeled: list[int]
    round: int = 0
    accuracy: float = 0.0
    mask: FisherMask | None = None

    def to_bytes(self) -> bytes:
        """Network and mask; the rest stands in the record."""
        content: dict[str, Any] = {"model": self.model.state_dict()}
        if self.mask is not None:
            content["mask"] = vars(self.mask)
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    def restore(self, content: bytes) -> None:
        """What ``to_bytes`` gave, into a network of the same architecture.

        Raises:
            ValueError: It is no such state.
        """
        device = next(self.model.parameters()).device
        try:
            found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            self.model.load_state_dict(found["model"])
            if "mask" in found:
                mask = found["mask"]
                mask["indices"] = {name: index.cpu() for name, index in mask["indices"].items()}
                self.mask = FisherMask(**mask)
        # A damaged archive ends in any of these, an empty file in the last.
        except _UNREADABLE as error:
            raise ValueError(f"it is damaged: {error or type(error).__name__}") from error
        self.model.eval()


class Experiment:
    """A run that is ready to go: everything is checked, nothing is trained yet.

    Args:
        data: Pool and test set.
        model: Name for ``build_model``.
        schedule: Strategies, labels and rounds.
        recipe: How to train.
        query: Options of the strategies.
        device: Where networks are trained and queried.
        variants: Strategies with options of their own, by the names that the schedule gives them.

    Raises:
        ValueError: The pool is too small, a strategy or the model unknown or unfit for the data
            or the recipe, or an option of a strategy unfit for the model.
    """

    def __init__(
        self,
        data: PoolAndTest,
        model: str,
        schedule: Schedule,
        recipe: Recipe | None = None,
        query: QueryOptions | None = None,
        device: str | torch.device = "cpu",
        variants: Mapping[str, Variant] | None = None,
    ) -> None:
        schedule.check_pool(len(data.pool))
        self.data = data
        self.model = model
        self.schedule = schedule
        self.recipe = recipe or Recipe()
        self.query = replace(query or QueryOptions(), likelihood=self._likelihood(data, query))
        self.task = TASKS[data.likelihood]
        self.device = torch.device(device)
        self.variants = dict(variants or {})
        network = self._build(0)
        self.arms = {name: self._arm(name) for name in schedule.strategies}
        self._estimated: set[str] = set()
        self._initial = initial_set(schedule, data.pool.targets, self._seed(0, "initial"))
        for strategy, options in self.arms.values():
            check(strategy, network, len(data.classes), options)
        first = data.training_set(torch.tensor(self._initial))
        # A last batch of one sample joins the one before it, unless all of them are of one.
        smallest = min(2, self.recipe.train_batch_size)
        try_training(network, first, len(data.classes), smallest, self.task)

    @staticmethod
    def _likelihood(data: PoolAndTest, query: QueryOptions | None) -> LikelihoodName:
        given = None if query is None else query.likelihood
        if given not in (None, data.likelihood):
            raise ValueError(
                f"likelihood must be that of the data, {data.likelihood} for {data.name}; got "
                f"{given}"
            )
        return data.likelihood

    def _arm(self, name: str) -> tuple[str, QueryOptions]:
        check_name("a strategy's name", name)
        variant = self.variants.get(name, Variant(name))
        if variant.strategy not in STRATEGIES:
            known = [*STRATEGIES, *self.variants]
            raise ValueError(
                f"strategy must be one of {', '.join(known)}; got {variant.strategy!r}"
                f"{meant(variant.strategy, known)}"
            )
        known_options = {each.name for each in fields(QueryOptions)}
        for option in variant.options:
            if option not in known_options:
                raise ValueError(
                    f"options of {name} must be among {', '.join(sorted(known_options))}; "
                    f"got {option!r}"
                )
        if ignored := unread(variant.strategy, replace(QueryOptions(), **variant.options)):
            logger.warning("%s: %s does not read %s", name, variant.strategy, ", ".join(ignored))
        return variant.strategy, replace(self.query, **variant.options)

    def config(self) -> dict[str, Any]:
        """What the run's folder records of this experiment."""
        query = asdict(self.query)
        del query["progress"], query["group"], query["samples"]
        used = {name: asdict(v) for name, v in self.variants.items() if name in self.arms}
        return {
            "data": asdict(self.data.options),
            "name": self.data.name,
            "n_pool": len(self.data.pool),
            "n_test": len(self.data.test),
            "pool_counts": self._count(self.data.pool.targets),
            "metric": self.task.metric,
            "classes": list(self.data.classes),
            "model": self.model,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "schedule": asdict(self.schedule),
            "recipe": asdict(self.recipe),
            "query": query,
            "variants": used,
        }

    def run(self, folder: RunFolder) -> Iterator[Round]:
        """Run all rounds that are not recorded yet; each is recorded and then yielded.

        Round by round, strategies in the order of the schedule. Stopping the iteration early, or
        killing the process, leaves a record of the rounds that were whole.
        """
        states = {name: self._resume(folder, name) for name in self.schedule.strategies}
        first: tuple[_State, tuple[Training, Evaluation, dict[str, float]]] | None = None
        for number in range(self.schedule.rounds + 1):
            for name, state in states.items():
                if number == 0 and state is None:
                    if first is None:
                        first = self._first()
                    start, outcome = first
                    states[name] = state = copy.deepcopy(start)
                    yield self._record(folder, name, start.labeled, state, outcome, {})
                elif state is not None and state.round < number and not self._is_done(state):
                    picks, info = self._pick(name, state, number)
                    state.labeled += picks
                    state.round = number
                    if not self.recipe.warm_start:
                        state.model = self._build(number)
                    outcome = self._train_and_evaluate(state)
                    yield self._record(folder, name, picks, state, outcome, info)

    def n_rounds(self) -> int:
        """Rounds in all, where none of them is stopped early."""
        return (self.schedule.rounds + 1) * len(self.schedule.strategies)

    def _first(self) -> tuple[_State, tuple[Training, Evaluation, dict[str, float]]]:
        state = _State(self._build(0), list(self._initial))
        return state, self._train_and_evaluate(state)

    def _resume(self, folder: RunFolder, name: str) -> _State | None:
        recorded = [entry for entry in folder.rounds if entry.strategy == name]
        if not recorded:
            return None
        last = recorded[-1]
        picks = [pick for entry in recorded for pick in entry.picks]
        state = _State(self._build(0), picks, last.round, last.accuracy)
        if last.round < self.schedule.rounds and not self._is_done(state):
            content = folder.load_state(name, last.round)
            try:
                state.restore(content)
            except ValueError as error:
                raise ValueError(
                    f"the state of {name} after round {last.round} in {folder.path} cannot be gone "
                    f"on with, start the run anew: {error}"
                ) from error
        return state

    def _is_done(self, state: _State) -> bool:
        return self.schedule.is_done(len(state.labeled), state.accuracy)

    def _build(self, number: int) -> nn.Module:
        model = build_model(
            self.model,
            len(self.data.classes),
            self.data.shape,
            self._seed(number, "weights"),
            vocabulary=self.data.vocabulary,
        )
        return model.to(self.device)

    def _seed(self, number: int, purpose: str) -> int:
        """A seed for one purpose of one round, independent of the others."""
        purposes = ("initial", "weights", "training", "query")
        sequence = np.random.SeedSequence([self.schedule.seed, number, purposes.index(purpose)])
        return int(sequence.generate_state(1)[0])

    def _pick(self, name: str, state: _State, number: int) -> tuple[list[int], dict[str, Any]]:
        taken = torch.zeros(len(self.data.pool), dtype=torch.bool)
        taken[state.labeled] = True
        unlabeled = (~taken).nonzero().flatten()
        n_picks = self.schedule.batch(len(state.labeled))
        strategy, options = self.arms[name]
        pool = Subset(self.data.pool, unlabeled.tolist())
        labeled = Subset(self.data.pool, state.labeled)
        seed = self._seed(number, "query")
        if name not in self._estimated:
            # Once: the queries of later rounds are as long.
            self._estimated.add(name)
            need = estimated(strategy, state.model, pool, labeled, n_picks, seed, options)
            what = f"a query by {name}"
            resized = Path(self.data.options.name).is_dir()
            announce(need, options, what, WORTH_SAYING, resized=resized)
        logger.info("round %d of %s: picking %d of %d", number, name, n_picks, len(unlabeled))
        start = time.perf_counter()
        picks: Picks = STRATEGIES[strategy](state.model, pool, labeled, n_picks, seed, options)
        info = dict(picks.info)
        steps = {f"query/{step}": value for step, value in info.pop("seconds", {}).items()}
        info["seconds"] = {"query": time.perf_counter() - start, **steps}
        if picks.mask is not None and state.mask is not None:
            info["mask_overlap"] = picks.mask.overlap(state.mask)
        state.mask = picks.mask
        indices = unlabeled[picks.indices]
        if len(indices.unique()) != n_picks:
            raise RuntimeError(
                f"{name} must return {n_picks} different indices; "
                f"got {len(indices)}, {len(indices.unique())} of them different"
            )
        return indices.tolist(), info

    def _train_and_evaluate(self, state: _State) -> tuple[Training, Evaluation, dict[str, float]]:
        start = time.perf_counter()
        # Steps of the smallest networks are too short for threads to be worth waking.
        with limited_threads(1 if self.model in TINY_MODELS else torch.get_num_threads()):
            training = train_model(
                state.model,
                self.data.training_set(torch.tensor(state.labeled)),
                Subset(self.data.pool, state.labeled),
                self.recipe,
                task=self.task,
                seed=self._seed(state.round, "training"),
                progress=self.query.progress,
            )
        trained = time.perf_counter()
        evaluation = evaluate(
            state.model,
            self.data.test,
            len(self.data.classes),
            task=self.task,
            progress=self.query.progress,
        )
        state.accuracy = evaluation.accuracy
        seconds = {"train": trained - start, "evaluate": time.perf_counter() - trained}
        logger.info(
            "round %d: trained on %d labels for %d epochs, %s %.4f of the test set",
            state.round,
            len(state.labeled),
            training.epochs,
            self.task.metric,
            evaluation.accuracy,
        )
        return training, evaluation, seconds

    def _record(
        self,
        folder: RunFolder,
        name: str,
        picks: list[int],
        state: _State,
        outcome: tuple[Training, Evaluation, dict[str, float]],
        info: dict[str, Any],
    ) -> Round:
        training, evaluation, seconds = outcome
        entry = Round(
            strategy=name,
            seed=self.schedule.seed,
            round=state.round,
            picks=list(picks),
            n_labeled=len(state.labeled),
            accuracy=evaluation.accuracy,
            class_accuracy=[None if math.isnan(a) else a for a in evaluation.class_accuracy],
            label_counts=self._count(self.data.pool.targets[picks]),
            training=asdict(training),
            seconds={**info.pop("seconds", {}), **seconds},
            query=info,
        )
        folder.save_state(name, state.round, state.to_bytes())
        folder.append(entry)
        return entry

    def _count(self, targets: Tensor) -> list[int]:
        counts: list[int] = self.task.count(targets, len(self.data.classes)).tolist()
        return counts
