"""What runs of several seeds come to: curves, areas, labels needed, differences with intervals.

Per seed, with accuracies a_0 .. a_R at n_0 .. n_R labels:

    area    A = sum_i (n_i - n_{i-1}) (a_i + a_{i-1}) / 2 / (n_R - n_0), a mean accuracy
    labels  L(t) = the least n at which the line through (n_i, a_i) reaches the accuracy t

Strategies of one seed share pool, initial set, initial weights and test set, so differences to the
baseline are taken seed by seed; the interval of their mean d is d +- t_{0.975, S-1} s / sqrt(S).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishermask_fast.loop.records import ROUNDS_FILE, Round, read_config, read_rounds

Array = NDArray[np.float64]
SAME_IN_ALL = ("name", "model", "classes", "recipe", "query")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval; NaN bounds where there is one seed only."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of Student's t; of no value at all: NaN."""
        if not values:
            return cls(math.nan, math.nan, math.nan, 0)
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, math.nan, math.nan, len(values))
        stats: Any = import_module("scipy.stats")
        quantile = stats.t.ppf(0.975, len(values) - 1)
        half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
        return cls(mean, mean - half, mean + half, len(values))


@dataclass(frozen=True)
class Curve:
    """Accuracies over labels of one strategy, at the rounds that all its seeds have.

    Attributes:
        labels: (R,) labels at each round.
        accuracy: (S, R), a row a seed.
        seeds: (S,) seeds in the order of the rows.
    """

    labels: Array
    accuracy: Array
    seeds: tuple[int, ...]

    def areas(self) -> dict[int, float]:
        """A of each seed; the accuracy itself where there is one round."""
        if len(self.labels) == 1:
            found = self.accuracy[:, 0]
        else:
            span = self.labels[-1] - self.labels[0]
            found = np.trapezoid(self.accuracy, self.labels, axis=1) / span
        return dict(zip(self.seeds, found.tolist(), strict=True))

    def labels_to(self, target: float) -> dict[int, float]:
        """L(target) of each seed that reaches it."""
        found = {}
        for seed, row in zip(self.seeds, self.accuracy, strict=True):
            at = int(np.argmax(row >= target))
            if row[at] < target:
                continue
            if at == 0:
                found[seed] = float(self.labels[0])
                continue
            share = (target - row[at - 1]) / (row[at] - row[at - 1])
            found[seed] = float(
                self.labels[at - 1] + share * (self.labels[at] - self.labels[at - 1])
            )
        return found


@dataclass(frozen=True)
class Study:
    """Runs of one experiment that differ in their seeds.

    Attributes:
        config: Of the first run.
        rounds: Of all runs.
        folders: Where each seed was recorded.
        baseline: The strategy that the others are compared with.
    """

    config: dict[str, Any]
    rounds: tuple[Round, ...]
    folders: dict[int, Path]
    baseline: str

    @property
    def title(self) -> str:
        """Data, network and how many seeds."""
        n = len(self.folders)
        return f"{self.config['name']}, {self.config['model']}, {n} seed{'s' if n > 1 else ''}"

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.config["classes"])

    @property
    def strategies(self) -> list[str]:
        """In the order in which they were run."""
        return _strategies(self.rounds)

    def of(self, strategy: str) -> list[Round]:
        """One strategy's rounds."""
        return [entry for entry in self.rounds if entry.strategy == strategy]

    def curve(self, strategy: str) -> Curve:
        """One strategy's accuracies, cut to the rounds that all of its seeds have."""
        by_seed: dict[int, list[Round]] = {}
        for entry in self.of(strategy):
            by_seed.setdefault(entry.seed, []).append(entry)
        n_rounds = min(len(entries) for entries in by_seed.values())
        accuracy = [[entry.accuracy for entry in each[:n_rounds]] for each in by_seed.values()]
        first = next(iter(by_seed.values()))
        labels = [float(entry.n_labeled) for entry in first[:n_rounds]]
        return Curve(np.array(labels), np.array(accuracy), tuple(by_seed))

    def target(self) -> float:
        """The accuracy that the baseline ends at, on average over seeds."""
        return float(self.curve(self.baseline).accuracy[:, -1].mean())


def find_runs(folders: Sequence[str | Path]) -> list[Path]:
    """Folders of runs in and below the given ones.

    Raises:
        ValueError: One of them is no folder or holds no run.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        here = sorted(path.parent for path in folder.rglob(ROUNDS_FILE))
        if not here:
            raise ValueError(f"{folder} holds no run: no {ROUNDS_FILE} in it or below it")
        found += [path for path in here if path not in found]
    return found


def read_study(folders: Sequence[str | Path], baseline: str | None = None) -> Study:
    """Runs of one experiment, read together.

    Args:
        folders: Runs, or folders that hold them.
        baseline: The strategy that the others are compared with; None for random picks where they
            were run, else for the last strategy.

    Raises:
        ValueError: There is no run, no round is recorded, two runs have one seed and strategy in
            common, they are no runs of one experiment, or the baseline was not run.
    """
    paths = find_runs(folders)
    configs = [read_config(path) for path in paths]
    rounds: list[Round] = []
    seen: dict[tuple[str, int], Path] = {}
    for path, config in zip(paths, configs, strict=True):
        for key in SAME_IN_ALL:
            if config.get(key) != configs[0].get(key):
                raise ValueError(
                    f"{path} differs from {paths[0]} in {key}: {config.get(key)!r} and "
                    f"{configs[0].get(key)!r}; plot them apart"
                )
        here = list(read_rounds(path))
        for strategy, seed in {(entry.strategy, entry.seed) for entry in here}:
            if (strategy, seed) in seen:
                raise ValueError(
                    f"{path} and {seen[strategy, seed]} both hold {strategy} with seed {seed}"
                )
            seen[strategy, seed] = path
        rounds += here
    if not rounds:
        raise ValueError(f"no round is recorded yet in {', '.join(map(str, paths))}")
    folders_of = {seed: path for (_, seed), path in seen.items()}
    strategies = _strategies(rounds)
    if baseline is None:
        baseline = "random" if "random" in strategies else strategies[-1]
    elif baseline not in strategies:
        raise ValueError(f"baseline must be one of {', '.join(strategies)}; got {baseline!r}")
    return Study(configs[0], tuple(rounds), folders_of, baseline)


def _strategies(rounds: Sequence[Round]) -> list[str]:
    return list(dict.fromkeys(entry.strategy for entry in rounds))


@dataclass(frozen=True)
class Comparison:
    """One strategy against the baseline.

    Attributes:
        strategy: Its name.
        area: A.
        area_gain: A less the baseline's, paired by seed.
        labels: L(target) of the seeds that reach it.
        labels_saved: The baseline's L less this one's, of seeds where both reach the target.
        n_seeds: Seeds in all.
    """

    strategy: str
    area: Interval
    area_gain: Interval
    labels: Interval
    labels_saved: Interval
    n_seeds: int

    @property
    def verdict(self) -> str:
        """Whether the interval of the gain lies above zero, below it, or holds it."""
        if math.isnan(self.area_gain.low):
            return "one seed"
        if self.area_gain.low > 0:
            return "wins"
        return "loses" if self.area_gain.high < 0 else "ties"


def compare(study: Study, target: float | None = None) -> list[Comparison]:
    """All strategies against the baseline, the largest area first.

    Args:
        study: Runs.
        target: Accuracy to be reached; that which the baseline ends at unless given.
    """
    goal = study.target() if target is None else target
    base = study.curve(study.baseline)
    base_areas, base_labels = base.areas(), base.labels_to(goal)
    found = []
    for name in study.strategies:
        curve = study.curve(name)
        areas, labels = curve.areas(), curve.labels_to(goal)
        found.append(
            Comparison(
                name,
                Interval.of(list(areas.values())),
                _paired(areas, base_areas),
                Interval.of(list(labels.values())),
                _paired(base_labels, labels),
                len(curve.seeds),
            )
        )
    return sorted(found, key=lambda each: -each.area.mean)


def _paired(ours: dict[int, float], theirs: dict[int, float]) -> Interval:
    return Interval.of([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
