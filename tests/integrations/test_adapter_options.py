"""Options through the adapters whose classifiers are no networks: the picks of the definition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fishermask_fast import factors_from_embeddings, reference

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")
pytest.importorskip("small_text")
pytest.importorskip("baal")

from skactiveml.classifier import SklearnClassifier as Wrapped  # noqa: E402
from skactiveml.regressor import SklearnRegressor  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from small_text import SklearnClassifier, SklearnDataset  # noqa: E402

from fishermask_fast.integrations import baal  # noqa: E402
from fishermask_fast.integrations.skactiveml import BaitQuery, FisherMaskQuery  # noqa: E402
from fishermask_fast.integrations.skactiveml_regression import BaitRegressorQuery  # noqa: E402
from fishermask_fast.integrations.small_text import FisherMaskStrategy  # noqa: E402

N, N_LABELED, WIDTH, K = 80, 14, 5, 8
OF_QUERY = ("eval_data", "gain_weights", "pending", "exclude", "cluster_ids")


@dataclass(frozen=True)
class Setting:
    """Samples of which every sixth or so has a label, and a classifier fitted to these."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    labeled: np.ndarray[Any, Any]
    deployed: np.ndarray[Any, Any]
    model: LogisticRegression

    @property
    def free(self) -> np.ndarray[Any, Any]:
        return np.setdiff1d(np.arange(N), self.labeled)

    def probabilities(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found = self.model.predict_proba(x)
        return found / found.sum(1, keepdims=True)

    def rows(self, x: np.ndarray[Any, Any], rows: str = "all") -> Tensor:
        return factors_from_embeddings(x, self.probabilities(x), rows=rows).dense()

    def defined(self, given: dict[str, Any], backward_steps: int = 1) -> list[int]:
        """The picks of the definition, as places among all samples."""
        options = dict(given)
        if options.pop("preset", None):
            options = {"lamb": "auto", "eval_weights": "balanced"} | options
        rows = options.pop("rows", "all")
        free, known = self.free, self.labeled
        v, every = self.rows(self.x[free], rows), self.rows(self.x, rows)
        labeled = reference.target_fisher(every[known], torch.ones(len(known)))
        fisher = reference.target_fisher(every, torch.ones(N))
        aimed = options.pop("eval_data", None)
        weights = options.pop("eval_weights", None)
        if aimed is not None or weights is not None:
            data = self.x[free] if aimed is None else aimed
            fisher = reference.target_fisher(self.rows(data, rows), self.weights(weights, data))
        if options.pop("class_weight", None):
            counts = torch.tensor(np.bincount(self.y[known], minlength=3)).double()
            p = torch.from_numpy(self.probabilities(self.x[free]))
            options["gain_weights"] = reference.class_weights(p, counts)
        elif "gain_weights" in options:
            options["gain_weights"] = torch.as_tensor(options["gain_weights"])[free]
        at = {int(place): position for position, place in enumerate(free)}
        for name in ("pending", "exclude"):
            if name in options:
                options[name] = [at[int(place)] for place in options[name]]
        if "cluster_ids" in options:
            options["cluster_ids"] = np.asarray(options["cluster_ids"])[free].tolist()
        for name, in_sums in (("lamb", False), ("prior_precision", True)):
            if options.get(name) == "auto":
                options[name] = reference.auto_prior(fisher, in_sums)
        fixed = {"n_labeled": len(known), "backward_steps": backward_steps}
        return [
            int(free[i]) for i in reference.select(v, K, fisher, labeled, **fixed, **options)[0]
        ]

    def weights(self, asked: Any, data: np.ndarray[Any, Any]) -> Tensor:
        if asked is None:
            return torch.ones(len(data))
        if asked == "balanced":
            return reference.balanced_weights(torch.from_numpy(self.probabilities(data)))
        if asked == "uncovered":
            known = torch.from_numpy(self.x[self.labeled])
            return reference.uncovered_weights(torch.from_numpy(data), known)
        return torch.as_tensor(asked)


@cache
def setting() -> Setting:
    dice = np.random.default_rng(3)
    size = np.logspace(0.6, -0.6, WIDTH)
    x = dice.normal(size=(N, WIDTH)) * size
    labeled = np.sort(dice.permutation(N)[:N_LABELED])
    y = np.zeros(N, dtype=int)
    y[labeled] = [0] * 9 + [1] * 3 + [2] * 2
    deployed = dice.normal(size=(25, WIDTH)) * size[::-1] ** 2
    model = LogisticRegression(C=0.3).fit(x[labeled], y[labeled])
    return Setting(x, y, labeled, deployed, model)


def options_of(name: str) -> dict[str, Any]:
    given = setting()
    usual = given.defined({})
    clusters = np.arange(N) // 2
    clusters[usual] = N
    dice = np.random.default_rng(4)
    return {
        "prior_precision": {"prior_precision": 1e-4},
        "prior auto": {"prior_precision": "auto"},
        "lamb auto": {"lamb": "auto"},
        "recommended": {"preset": "recommended"},
        "recommended, a lamb": {"preset": "recommended", "lamb": 0.3},
        "gain_weights": {"gain_weights": np.exp(2 * dice.normal(size=N))},
        "pending": {"pending": usual},
        "exclude": {"exclude": np.array(usual)},
        "clusters": {"cluster_ids": clusters, "max_per_cluster": 1},
        "clusters and pending": {
            "cluster_ids": clusters,
            "max_per_cluster": 2,
            "pending": usual[:2],
        },
        "logdet": {"criterion": "logdet"},
        "top_class": {"rows": "top_class"},
        "eval_data": {"eval_data": given.deployed},
        "eval_data balanced": {"eval_data": given.deployed, "eval_weights": "balanced"},
        "balanced": {"eval_weights": "balanced"},
        "uncovered": {"eval_weights": "uncovered"},
        "weights": {"eval_weights": torch.from_numpy(dice.exponential(size=N - N_LABELED) ** 4)},
        "class_weight": {"class_weight": "balanced"},
    }[name]


NAMES = (
    "prior_precision",
    "prior auto",
    "lamb auto",
    "recommended",
    "recommended, a lamb",
    "gain_weights",
    "pending",
    "exclude",
    "clusters",
    "clusters and pending",
    "logdet",
    "top_class",
    "eval_data",
    "eval_data balanced",
    "balanced",
    "uncovered",
    "weights",
    "class_weight",
)


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    of_query = {name: value for name, value in options.items() if name in OF_QUERY}
    return {name: value for name, value in options.items() if name not in of_query}, of_query


def by_skactiveml(options: dict[str, Any], **more: Any) -> Any:
    given = setting()
    parameters, asked = split(options)
    y = np.full(N, np.nan)
    y[given.labeled] = given.y[given.labeled]
    classifier = Wrapped(LogisticRegression(C=0.3), classes=[0, 1, 2])
    return BaitQuery(**parameters).query(given.x, y, classifier, batch_size=K, **asked, **more)


def by_small_text(options: dict[str, Any]) -> list[int]:
    given = setting()
    parameters, asked = split(options)
    samples = SklearnDataset(given.x, given.y, target_labels=np.arange(3))
    if "eval_data" in asked:
        n = len(given.deployed)
        nothing = np.zeros(n, dtype=int)
        asked["eval_data"] = SklearnDataset(given.deployed, nothing, target_labels=np.arange(3))
    classifier = SklearnClassifier(LogisticRegression(C=0.3), 3)
    classifier.fit(samples[given.labeled])
    strategy = FisherMaskStrategy(mask="head", backward_steps=1, **parameters)
    y = given.y[given.labeled]
    found = strategy.query(classifier, samples, given.free, given.labeled, y, n=K, **asked)
    return list(map(int, found))


def by_baal(options: dict[str, Any]) -> list[int]:
    given = setting()
    free, known = given.free, given.labeled
    at = {int(place): position for position, place in enumerate(free)}
    asked = dict(options)
    for name in ("gain_weights", "cluster_ids"):
        if name in asked:
            asked[name] = np.asarray(asked[name])[free]
    for name in ("pending", "exclude"):
        if name in asked:
            asked[name] = [at[int(place)] for place in asked[name]]

    def predictions(x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [given.probabilities(x), x]

    if "eval_data" in asked:
        asked["eval_data"] = predictions(given.deployed)
    if asked.get("eval_weights") == "uncovered":
        asked["labeled_embeddings"] = given.x[known]
    if "class_weight" in asked:
        asked["labels"] = given.y[known]
    rows = asked.get("rows", "all")
    labeled = baal.labeled_fisher(predictions(given.x[known]), rows=rows)
    heuristic = baal.FisherMaskHeuristic(K, labeled, len(known), backward_steps=1, **asked)
    ranks, scores = heuristic.get_ranks(predictions(given.x[free]))
    assert sorted(ranks) == list(range(len(free)))
    barred = [at[int(p)] for n in ("pending", "exclude") for p in options.get(n, ())]
    assert np.isneginf(scores[barred]).all() and set(barred).isdisjoint(ranks[:K])
    last = np.isneginf(scores).sum()
    assert np.isneginf(scores[ranks[len(ranks) - last :]]).all()
    return [int(free[i]) for i in ranks[:K]]


@pytest.mark.parametrize("adapter", [by_skactiveml, by_small_text, by_baal])
@pytest.mark.parametrize("name", NAMES)
def test_adapters_pick_what_the_definition_does(name: str, adapter: Any) -> None:
    options = options_of(name)
    expected = setting().defined(options)
    assert expected != setting().defined({})
    assert list(map(int, adapter(options))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_utilities_are_the_gains_before_each_pick(name: str) -> None:
    """Without backward steps each pick is the largest of its row; NaN where none may be picked."""
    options = options_of(name) | {"backward_steps": 0}
    picks, utilities = by_skactiveml(options, return_utilities=True)
    barred = {int(p) for n in ("pending", "exclude") for p in options.get(n, ())}
    clusters = options.get("cluster_ids", np.arange(N))
    most = options.get("max_per_cluster", 1)
    held = list(map(int, options.get("pending", ())))
    for pick, row in zip(picks, utilities, strict=True):
        assert int(np.nanargmax(row)) == pick
        full = [c for c in set(clusters[held].tolist()) if (clusters[held] == c).sum() >= most]
        closed = {i for i in range(N) if clusters[i] in full} | barred
        closed |= {*setting().labeled.tolist(), *held}
        assert set(np.flatnonzero(np.isnan(row)).tolist()) == closed
        held.append(int(pick))


def test_candidates_and_pending_samples_that_are_none() -> None:
    """A pending sample is in M though it is no candidate."""
    given = setting()
    usual = given.defined({})
    candidates = np.setdiff1d(given.free, usual)
    found = by_skactiveml({"pending": usual}, candidates=candidates)
    assert list(map(int, found)) == given.defined({"pending": usual})
    # Candidates that are samples of their own are named by their own places.
    mine = given.x[given.free]
    at = [int(np.flatnonzero(given.free == place)[0]) for place in usual]
    found = by_skactiveml({"pending": at}, candidates=mine)
    assert [int(given.free[i]) for i in found] == given.defined({"pending": usual})


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lamb": 1.0, "prior_precision": 1.0}, ValueError, "lamb and prior_precision are two"),
    ({"criterion": "D"}, ValueError, "criterion must be"),
    ({"criterion": "logdet", "eval_weights": "balanced"}, ValueError, "eval_weights play no part"),
    ({"rows": "top_class", "rank": 1}, ValueError, "rows='top_class' gives one row"),
    ({"rows": "one"}, ValueError, "rows must be"),
    ({"class_weight": "scarce"}, ValueError, "class_weight must be"),
    ({"max_per_cluster": 1}, ValueError, "cluster_ids and max_per_cluster belong"),
    ({"cluster_ids": np.zeros(N, dtype=int)}, ValueError, "cluster_ids and max_per_cluster"),
    ({"gain_weights": np.ones(N + 1)}, ValueError, r"gain_weights must have shape"),
    ({"gain_weights": -np.ones(N)}, ValueError, "gain_weights must be finite and above 0"),
    ({"pending": [N + 7]}, ValueError, "pending must be indices within"),
    ({"exclude": [0.5]}, TypeError, "exclude must be integers"),
]


@pytest.mark.parametrize("adapter", [by_skactiveml, by_small_text])
@pytest.mark.parametrize("options,kind,text", BAD, ids=range(len(BAD)))
def test_what_adapters_refuse(
    options: dict[str, Any], kind: type[Exception], text: str, adapter: Any
) -> None:
    with pytest.raises(kind, match=text):
        adapter(options)


def test_pending_samples_with_a_label_are_refused() -> None:
    place = int(setting().labeled[0])
    for adapter in (by_skactiveml, by_small_text):
        with pytest.raises(ValueError, match=f"pending must have no label yet; sample {place}"):
            adapter({"pending": [place]})


def test_fishermask_of_a_head_aims_on_its_own_mask() -> None:
    """eval_data on the entries that the pool's mask keeps."""
    given = setting()
    y = np.full(N, np.nan)
    y[given.labeled] = given.y[given.labeled]
    classifier = Wrapped(LogisticRegression(C=0.3), classes=[0, 1, 2])
    query = FisherMaskQuery(head_entries=6)
    found = query.query(given.x, y, classifier, batch_size=K, eval_data=given.deployed)
    every = factors_from_embeddings(given.x, given.probabilities(given.x), mask=6)
    aimed = factors_from_embeddings(
        given.deployed, given.probabilities(given.deployed), mask=every.head_index
    )
    v = every.dense()
    labeled = reference.target_fisher(v[given.labeled], torch.ones(N_LABELED))
    picks = reference.select(v[given.free], K, aimed.fisher(), labeled, n_labeled=N_LABELED)[0]
    assert found.tolist() == given.free[picks].tolist()


def test_a_regressor_aims_and_waits() -> None:
    """Gaussian rows: eval_data, pending and clusters; classes are none of its options."""
    given = setting()
    y = np.full(N, np.nan)
    y[given.labeled] = given.x[given.labeled, 0]
    v = factors_from_embeddings(given.x, likelihood="gaussian", bias=True).dense()
    aimed = factors_from_embeddings(given.deployed, likelihood="gaussian", bias=True).dense()
    free, known = given.free, given.labeled
    labeled = reference.target_fisher(v[known], torch.ones(N_LABELED))
    fisher = reference.target_fisher(aimed, torch.ones(len(aimed)))
    clusters = np.arange(N) // 4
    expected = reference.select(
        v[free], K, fisher, labeled, n_labeled=N_LABELED, backward_steps=1, prior_precision=0.5,
        pending=[3, 4], cluster_ids=clusters[free].tolist(), max_per_cluster=1,
    )[0]  # fmt: skip
    query = BaitRegressorQuery(prior_precision=0.5, max_per_cluster=1)
    found = query.query(
        given.x, y, SklearnRegressor(Ridge()), batch_size=K, eval_data=given.deployed,
        pending=free[[3, 4]], cluster_ids=clusters,
    )  # fmt: skip
    assert found.tolist() == free[expected].tolist()
    with pytest.raises(TypeError, match="class_weight"):
        BaitRegressorQuery(class_weight="balanced")
