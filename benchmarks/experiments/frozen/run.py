"""The frozen track: features stay as they are, and a logistic head is trained on every batch.

    python benchmarks/experiments/frozen/run.py EXPERIMENT.toml --features FEATURES --out OUT

For each seed, setting and strategy: queries, each after a head was trained on all labels so far.
Strategies of a seed and setting share test set, pool, scaling, first labels and the seeds of their
draws, so that only picks differ; the head's optimum is unique,

    W = argmin  sum_i w_i CE(y_i, W [x_i, 1]) + |W|^2 / 2

the bias with a penalty too, so that classes without labels have an optimum as well. w_i = 1, or
with class-balanced training the inverse share of the label's class among the labels. Accuracy is
balanced accuracy: the test set has as many samples of each class.

A folder a setting and seed holds what ``fishermask-fast run`` records, one line a round and
strategy; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fishermask_fast.loop.records import RunFolder
from fishermask_fast.loop.rounds import Round
from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies import STRATEGIES, check

PURPOSES = ("split", "initial", "query")


@dataclass(frozen=True)
class Setting:
    """Data and how they are labeled.

    Attributes:
        data: Name of the features' file.
        test: Test samples a class.
        pool: Pool samples of the commonest class.
        tail: How many times as many of the commonest class as of the rarest; sizes fall
            geometrically, the order of classes drawn by the seed.
        components: Principal components of the pool that are kept, one scale for all; None takes
            each column by its own mean and deviation.
        initial: Labels drawn by chance to begin with.
        per_round: Labels a query.
        rounds: Queries.
        balanced_training: Whether the head's samples weigh by their class.
    """

    data: str
    test: int
    pool: int
    tail: float = 1.0
    components: int | None = None
    initial: int = 20
    per_round: int = 20
    rounds: int = 10
    balanced_training: bool = False


@dataclass(frozen=True)
class Variant:
    """A strategy with options of its own."""

    strategy: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """One seed's pool and test set, scaled.

    Attributes:
        x: (N, d) float32, the pool.
        y: (N,) int64.
        test_x: (n, d).
        test_y: (n,).
        classes: Their names.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]


def draws(seed: int, purpose: str, number: int = 0) -> np.random.SeedSequence:
    """Of one purpose, whatever else is drawn."""
    return np.random.SeedSequence([seed, PURPOSES.index(purpose), number])


def split(setting: Setting, features: Path, seed: int) -> Split:
    """The pool and the test set of a seed."""
    with np.load(features / f"{setting.data}.npz") as content:
        x, y, classes = content["x"], content["y"], tuple(map(str, content["classes"]))
    generator = np.random.default_rng(draws(seed, "split"))
    ranks = generator.permutation(len(classes))
    test, pool = [], []
    for number, rank in enumerate(ranks):
        rows = generator.permutation(np.flatnonzero(y == number))
        size = round(setting.pool * setting.tail ** (-rank / (len(classes) - 1)))
        if len(rows) < setting.test + size:
            raise ValueError(
                f"{setting.data} has {len(rows)} samples of class {classes[number]}; "
                f"{setting.test} + {size} are asked for"
            )
        test.append(rows[: setting.test])
        pool.append(rows[setting.test : setting.test + size])
    in_pool, in_test = generator.permutation(np.concatenate(pool)), np.concatenate(test)
    given, told = scaled(x[in_pool], x[in_test], setting.components)
    labels = torch.from_numpy(y)
    return Split(given, labels[in_pool], told, labels[in_test], classes)


def scaled(pool: np.ndarray, test: np.ndarray, components: int | None) -> tuple[Tensor, Tensor]:
    """Both by what the pool alone tells, without its labels."""
    x, other = torch.from_numpy(pool).double(), torch.from_numpy(test).double()
    mean = x.mean(0)
    x, other = x - mean, other - mean
    if components is None:
        scale = x.square().mean(0).sqrt()
        scale[scale == 0] = 1
    else:
        vectors = torch.linalg.eigh(x.T @ x).eigenvectors[:, -components:].flip(1)
        x, other = x @ vectors, other @ vectors
        scale = x.square().mean().sqrt()
    return (x / scale).float(), (other / scale).float()


def fit_head(x: Tensor, y: Tensor, n_classes: int, balanced: bool) -> tuple[nn.Linear, float]:
    """The head that some labels make, and its objective."""
    n, d = x.shape
    inputs = torch.cat([x.double(), torch.ones(n, 1).double()], 1)
    weights = torch.ones(n, dtype=torch.float64)
    if balanced:
        counts = y.bincount(minlength=n_classes)
        weights = n / (int((counts > 0).sum()) * counts[y].double())

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(n_classes, d + 1)
        log_p = (inputs @ w.T).log_softmax(1)
        loss = -(weights * log_p[torch.arange(n), y]).sum() + w.square().sum() / 2
        slope = log_p.exp()
        slope[torch.arange(n), y] -= 1
        gradient = (slope * weights[:, None]).T @ inputs + w
        return float(loss), gradient.flatten().numpy()

    found = minimize(
        objective, np.zeros(n_classes * (d + 1)), jac=True, method="L-BFGS-B",
        options={"maxiter": 1000, "gtol": 1e-4, "ftol": 1e-12},
    )  # fmt: skip
    w = torch.from_numpy(found.x).view(n_classes, d + 1).float()
    head = nn.Linear(d, n_classes)
    with torch.no_grad():
        head.weight.copy_(w[:, :d])
        head.bias.copy_(w[:, d])
    return head, float(found.fun)


@torch.no_grad()
def recalls(head: nn.Linear, own: Split) -> list[float]:
    """The accuracy of each class."""
    right = head(own.test_x).argmax(1) == own.test_y
    return [
        round(float(right[own.test_y == c].double().mean()), 5) for c in range(len(own.classes))
    ]


def run_strategy(
    name: str, variant: Variant, setting: Setting, own: Split, seed: int, folder: RunFolder
) -> None:
    """All rounds of a strategy that are not recorded yet."""
    known = [entry for entry in folder.rounds if entry.strategy == name]
    labeled = [pick for entry in known for pick in entry.picks]
    n_classes = len(own.classes)
    options = QueryOptions(**variant.options)
    head, loss = nn.Linear(own.x.shape[1], n_classes), 0.0
    if labeled and len(known) <= setting.rounds:
        head, loss = _fit(own, labeled, setting)
    for number in range(len(known), setting.rounds + 1):
        seconds = {}
        if number == 0:
            generator = np.random.default_rng(draws(seed, "initial"))
            picks = generator.permutation(len(own.x))[: setting.initial].tolist()
        else:
            free = torch.ones(len(own.x), dtype=torch.bool)
            free[labeled] = False
            places = free.nonzero().flatten()
            pool, old = TensorDataset(own.x[places]), TensorDataset(own.x[labeled], own.y[labeled])
            draw = int(draws(seed, "query", number).generate_state(1)[0])
            start = time.perf_counter()
            found = STRATEGIES[variant.strategy](head, pool, old, setting.per_round, draw, options)
            seconds["query"] = round(time.perf_counter() - start, 4)
            picks = places[found.indices].tolist()
        start = time.perf_counter()
        labeled += picks
        head, loss = _fit(own, labeled, setting)
        seconds["train"] = round(time.perf_counter() - start, 4)
        of_class = recalls(head, own)
        folder.append(
            Round(
                strategy=name,
                seed=seed,
                round=number,
                picks=picks,
                n_labeled=len(labeled),
                accuracy=round(float(np.mean(of_class)), 6),
                class_accuracy=list(of_class),
                label_counts=own.y[picks].bincount(minlength=n_classes).tolist(),
                training={"loss": round(loss, 6)},
                seconds=seconds,
            )
        )


def _fit(own: Split, labeled: list[int], setting: Setting) -> tuple[nn.Linear, float]:
    x, y = own.x[labeled], own.y[labeled]
    return fit_head(x, y, len(own.classes), setting.balanced_training)


def config(
    name: str, setting: Setting, variants: dict[str, Variant], own: Split, seed: int
) -> dict[str, Any]:
    """What the folder of a setting and seed says of itself."""
    return {
        "name": name,
        "model": "logistic head",
        "metric": "balanced accuracy",
        "classes": list(own.classes),
        "n_pool": len(own.x),
        "n_test": len(own.test_x),
        "pool_counts": own.y.bincount(minlength=len(own.classes)).tolist(),
        "setting": asdict(setting),
        "data": {},
        "schedule": {"seed": seed, "rounds": setting.rounds, "strategies": list(variants)},
        "query": {},
        "recipe": {},
        "variants": {key: asdict(variant) for key, variant in variants.items()},
    }


def read(path: Path) -> tuple[list[int], dict[str, Setting], dict[str, Variant]]:
    """Seeds, settings and strategies of an experiment."""
    content = tomllib.loads(path.read_text())
    common = content.get("common", {})
    settings = {name: Setting(**{**common, **own}) for name, own in content["settings"].items()}
    variants = {name: Variant(**own) for name, own in content["strategies"].items()}
    return list(content["seeds"]), settings, variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    seeds, settings, variants = read(arguments.experiment)
    for seed in seeds:
        for name, setting in settings.items():
            start = time.perf_counter()
            own = split(setting, arguments.features, seed)
            for variant in variants.values():
                head = nn.Linear(own.x.shape[1], len(own.classes))
                check(variant.strategy, head, len(own.classes), QueryOptions(**variant.options))
            asked = config(name, setting, variants, own, seed)
            folder = RunFolder(arguments.out / name / f"seed{seed}", asked, resume=True)
            try:
                for key, variant in variants.items():
                    run_strategy(key, variant, setting, own, seed, folder)
            finally:
                folder.close()
            print(f"{name} seed {seed}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
