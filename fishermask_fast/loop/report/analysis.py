"""What runs of several seeds come to: curves, areas, labels needed, differences with intervals.

Per seed, with accuracies a_0 .. a_R at n_0 .. n_R labels:

    area    A = sum_i (n_i - n_{i-1}) (a_i + a_{i-1}) / 2 / (n_R - n_0), a mean accuracy
    labels  L(t) = the least n at which the line through (n_i, a_i) reaches the accuracy t

Areas are taken over the rounds that every strategy and seed has, so that one which stopped early,
or is not done yet, is not measured over another span than the rest; labels, over all rounds.

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

from fishermask_fast.loop.records import (
    CONFIG_FILE,
    ROUNDS_FILE,
    WHEREABOUTS,
    read_config,
    read_rounds,
)
from fishermask_fast.loop.rounds import Round
from fishermask_fast.options import meant

Array = NDArray[np.float64]
SAME_IN_ALL = ("name", "model", "classes", "recipe", "query")
# Runs of one experiment may lie elsewhere, and go on for more rounds or with other strategies.
MAY_DIFFER = {"data": ("name", "seed", *WHEREABOUTS), "schedule": ("seed", "strategies", "rounds")}


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
    def metric(self) -> str:
        """What ``accuracy`` stands for: of classes just that, else the metric of the labels."""
        return str(self.config.get("metric", "accuracy"))

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

    def by_seed(self, strategy: str) -> dict[int, list[Round]]:
        """One strategy's rounds of each seed."""
        found: dict[int, list[Round]] = {}
        for entry in self.of(strategy):
            found.setdefault(entry.seed, []).append(entry)
        return found

    def n_common(self) -> int:
        """Rounds, the first training included, that every strategy and seed has."""
        return min(len(each) for name in self.strategies for each in self.by_seed(name).values())

    def curve(self, strategy: str, n_rounds: int | None = None) -> Curve:
        """One strategy's accuracies, cut to n_rounds or to those that all its seeds have."""
        by_seed = self.by_seed(strategy)
        cut = min(len(entries) for entries in by_seed.values()) if n_rounds is None else n_rounds
        accuracy = [[entry.accuracy for entry in each[:cut]] for each in by_seed.values()]
        first = next(iter(by_seed.values()))
        labels = [float(entry.n_labeled) for entry in first[:cut]]
        return Curve(np.array(labels), np.array(accuracy), tuple(by_seed))

    def labels_to(self, strategy: str, target: float) -> dict[int, float]:
        """L(target) of each seed that reaches it, whenever that is."""
        found: dict[int, float] = {}
        for seed, entries in self.by_seed(strategy).items():
            labels = np.array([float(entry.n_labeled) for entry in entries])
            accuracy = np.array([[entry.accuracy for entry in entries]])
            found |= Curve(labels, accuracy, (seed,)).labels_to(target)
        return found

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
    return read_runs(find_runs(folders), baseline)


def read_runs(paths: Sequence[Path], baseline: str | None = None) -> Study:
    """``read_study`` of the runs' own folders, whatever lies below them."""
    configs = [_drawn(path, read_config(path)) for path in paths]
    rounds: list[Round] = []
    seen: dict[tuple[str, int], Path] = {}
    for path, config in zip(paths, configs, strict=True):
        _check_same_experiment(path, config, paths[0], configs[0])
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
        raise ValueError(
            f"baseline must be one of {', '.join(strategies)}; got {baseline!r}"
            f"{meant(baseline, strategies)}"
        )
    return Study(configs[0], tuple(rounds), folders_of, baseline)


def _drawn(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that says all that pictures tell of it.

    Raises:
        ValueError: It does not.
    """
    for name in ("name", "model", "classes", "n_pool", "data"):
        if name not in config:
            raise ValueError(f"{path / CONFIG_FILE} is not a run's configuration: no {name} in it")
    return config


def _check_same_experiment(
    path: Path, config: dict[str, Any], first_path: Path, first: dict[str, Any]
) -> None:
    ours, theirs = _what_must_agree(config), _what_must_agree(first)
    # A variant may be missing from one of them, but not be two things under one name.
    for key in [key for key in ours if key in theirs]:
        if ours[key] != theirs[key]:
            raise ValueError(
                f"{path} differs from {first_path} in {key}: {ours[key]!r} and {theirs[key]!r}; "
                "plot them apart"
            )


def _what_must_agree(config: dict[str, Any]) -> dict[str, Any]:
    found = {key: config.get(key) for key in SAME_IN_ALL}
    for part, free in MAY_DIFFER.items():
        inner = config.get(part) or {}
        found |= {f"{part}.{key}": value for key, value in inner.items() if key not in free}
    variants = config.get("variants") or {}
    return found | {f"variants.{name}": variant for name, variant in variants.items()}


def _strategies(rounds: Sequence[Round]) -> list[str]:
    return list(dict.fromkeys(entry.strategy for entry in rounds))


@dataclass(frozen=True)
class Comparison:
    """One strategy against the baseline.

    Attributes:
        strategy: Its name.
        area: A, over the rounds that all strategies and seeds have.
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
        if not self.area_gain.n:
            return ""
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
    n_rounds = study.n_common()
    base_areas = study.curve(study.baseline, n_rounds).areas()
    base_labels = study.labels_to(study.baseline, goal)
    found = []
    for name in study.strategies:
        areas = study.curve(name, n_rounds).areas()
        labels = study.labels_to(name, goal)
        found.append(
            Comparison(
                name,
                Interval.of(list(areas.values())),
                _paired(areas, base_areas),
                Interval.of(list(labels.values())),
                _paired(base_labels, labels),
                len(areas),
            )
        )
    return sorted(found, key=lambda each: -each.area.mean)


def _paired(ours: dict[int, float], theirs: dict[int, float]) -> Interval:
    return Interval.of([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
