"""The selector's options against the definition on its own model, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pools import picks
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fishermask_fast import (
    FisherMask,
    FisherMaskSelector,
    GradientFactors,
    masked_gradients,
    reference,
)
from fishermask_fast.selector.targets import (
    balanced_weights,
    scarce_class_weights,
    uncovered_weights,
)

N, N_LABELED, WIDTH, CLASSES, K = 150, 12, 6, 4, 8


class Setting:
    """A head on its inputs, of a pool that is not where the model will be used."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(WIDTH, CLASSES).double()
        with torch.no_grad():
            self.model.weight.mul_(0.5)
            self.model.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
        torch.manual_seed(0)
        size = torch.logspace(0.7, -0.5, WIDTH, dtype=torch.float64)
        self.pool = torch.randn(N, WIDTH, dtype=torch.float64) * size
        self.labeled = torch.randn(N_LABELED, WIDTH, dtype=torch.float64) * size
        self.deployed = torch.randn(50, WIDTH, dtype=torch.float64) * size.flip(0) ** 2
        self.labels = torch.tensor([0] * 9 + [1, 1, 2])
        self.mask = FisherMask.head(self.model)

    def rows(self, data: Tensor, **options: Any) -> Tensor:
        return masked_gradients(self.model, data, self.mask, **options).dense()

    def probabilities(self, data: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(data).softmax(1)

    def query(self, parameters: dict[str, Any], arguments: dict[str, Any]) -> list[int]:
        selector = FisherMaskSelector(self.model, mask="head", backward_steps=1, **parameters)
        labeled = TensorDataset(self.labeled, self.labels)
        return picks(selector.query(self.pool, K, labeled, progress=False, **arguments))

    def defined(
        self,
        fisher: Tensor | None = None,
        rows: str = "all",
        **options: Any,
    ) -> list[int]:
        v, known = self.rows(self.pool, rows=rows), self.rows(self.labeled, rows=rows)
        every = torch.cat([v, known])
        if fisher is None:
            fisher = reference.target_fisher(every, torch.ones(len(every)))
        labeled = reference.target_fisher(known, torch.ones(len(known)))
        options = {"n_labeled": N_LABELED, "backward_steps": 1} | options
        return reference.select(v, K, fisher, labeled, **options)[0]


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


def aimed_at(setting: Setting, data: Tensor, weights: Tensor) -> Tensor:
    return reference.target_fisher(setting.rows(data), weights)


def case(setting: Setting, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters and arguments of a query, and what the definition takes for them."""
    usual = setting.defined()
    p = setting.probabilities(setting.pool)
    balanced = reference.balanced_weights(p)
    uncovered = reference.uncovered_weights(setting.pool, setting.labeled)
    counts = torch.tensor([9.0, 2.0, 1.0, 0.0])
    some = torch.arange(50).double()
    clusters = torch.arange(N)
    clusters[usual] = N
    sums = 1e-4
    return {
        "prior_precision": ({"prior_precision": sums}, {}, {"prior_precision": sums}),
        "eval_data": (
            {},
            {"eval_data": setting.deployed},
            {"fisher": aimed_at(setting, setting.deployed, torch.ones(50))},
        ),
        "eval_data as factors": (
            {"eval_weights": some},
            {"eval_data": masked_gradients(setting.model, setting.deployed, setting.mask)},
            {"fisher": aimed_at(setting, setting.deployed, some)},
        ),
        "balanced": (
            {"eval_weights": "balanced"},
            {},
            {"fisher": aimed_at(setting, setting.pool, balanced)},
        ),
        "uncovered": (
            {"eval_weights": "uncovered"},
            {},
            {"fisher": aimed_at(setting, setting.pool, uncovered)},
        ),
        "class_weight": (
            {"class_weight": "balanced"},
            {},
            {"gain_weights": reference.class_weights(p, counts)},
        ),
        "class_weight and costs": (
            {"class_weight": "balanced"},
            {"gain_weights": 1 + clusters, "labels": setting.labels},
            {"gain_weights": reference.class_weights(p, counts) * (1 + clusters)},
        ),
        "pending": ({}, {"pending": usual[:6]}, {"pending": usual[:6]}),
        "exclude": ({}, {"exclude": usual[:6]}, {"exclude": usual[:6]}),
        "clusters": (
            {"max_per_cluster": 1},
            {"cluster_ids": clusters},
            {"cluster_ids": clusters.tolist(), "max_per_cluster": 1},
        ),
        "logdet": ({"criterion": "logdet"}, {}, {"criterion": "logdet"}),
        "top_class": ({"rows": "top_class"}, {}, {"rows": "top_class"}),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "prior_precision",
        "eval_data",
        "eval_data as factors",
        "balanced",
        "uncovered",
        "class_weight",
        "class_weight and costs",
        "pending",
        "exclude",
        "clusters",
        "logdet",
        "top_class",
    ],
)
def test_a_query_picks_what_the_definition_does(name: str, setting: Setting) -> None:
    parameters, arguments, options = case(setting, name)
    expected = setting.defined(**options)
    # How much each option can change is shown in tests/engine/test_rules.py.
    assert len(set(expected) - set(setting.defined())) >= K / 4
    assert setting.query(parameters, arguments) == expected


def test_weights_are_those_of_the_definition() -> None:
    p = torch.randn(30, 4, dtype=torch.float64).mul(3).softmax(1)
    x, known = torch.randn(30, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    counts = torch.tensor([5, 0, 2, 1])
    torch.testing.assert_close(balanced_weights(p), reference.balanced_weights(p))
    torch.testing.assert_close(uncovered_weights(x, known), reference.uncovered_weights(x, known))
    few = reference.uncovered_weights(x[:3], known)
    torch.testing.assert_close(uncovered_weights(x[:3], known), few)
    assert uncovered_weights(x, known[:0]).tolist() == [1.0] * 30
    expected = reference.class_weights(p, counts)
    torch.testing.assert_close(scarce_class_weights(p, counts), expected)


def test_top_class_rows_are_those_of_the_definition() -> None:
    logits = torch.randn(20, 5, dtype=torch.float64)
    logits[3] = torch.tensor([800.0, 0.0, 0.0, 0.0, 1.0])  # no doubt is left
    logits[4] = 0.0
    setting = Setting()
    rows = setting.rows(setting.pool, rows="top_class")
    with torch.no_grad():
        outputs = setting.model(setting.pool)
    inputs = torch.cat([setting.pool, torch.ones(N, 1, dtype=torch.float64)], 1)
    expected = reference.top_class_rows(outputs)[..., None] * inputs[:, None, None, :]
    torch.testing.assert_close(rows, expected.flatten(2), rtol=1e-9, atol=1e-12)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"lamb": 1.0, "prior_precision": 1.0}, {}, ValueError, "lamb and prior_precision are two"),
    ({"criterion": "D"}, {}, ValueError, "criterion must be 'trace' or 'logdet'"),
    ({"class_weight": "scarce"}, {}, ValueError, "class_weight must be None or 'balanced'"),
    ({"eval_weights": "all"}, {}, ValueError, "eval_weights must be 'balanced' or 'uncovered'"),
    ({"rows": "one"}, {}, ValueError, "rows must be 'all' or 'top_class'"),
    ({"rows": "top_class", "rank": 2}, {}, ValueError, "rows='top_class' gives one row a sample"),
    ({"rows": "top_class", "weighting": "none"}, {}, ValueError, "is for weighting 'fisher'"),
    ({"rows": "top_class", "likelihood": "bernoulli"}, {}, ValueError, "for likelihood 'categ"),
    ({"class_weight": "balanced", "likelihood": "bernoulli"}, {}, ValueError, "class_weight='ba"),
    ({"eval_weights": "balanced", "likelihood": "gaussian"}, {}, ValueError, "eval_weights='ba"),
    ({"criterion": "logdet", "eval_weights": "balanced"}, {}, ValueError, "eval_weights play no"),
    ({"criterion": "logdet"}, {"eval_data": torch.ones(3, 6)}, ValueError, "eval_data plays no"),
    ({}, {"pending": [N]}, ValueError, "pending must be indices within 0..149"),
    ({}, {"exclude": range(N - 2)}, ValueError, "n_select must be at most the 2 samples"),
    ({}, {"cluster_ids": [0] * N}, ValueError, "cluster_ids and max_per_cluster belong"),
    ({"max_per_cluster": 1}, {}, ValueError, "cluster_ids and max_per_cluster belong"),
    ({}, {"gain_weights": torch.ones(N + 1)}, ValueError, r"gain_weights must have shape \(150,\)"),
    ({}, {"eval_data": torch.ones(3, 5).double()}, ValueError, "does not take eval_data samples"),
    ({"eval_weights": torch.ones(N + 1)}, {}, ValueError, r"eval_weights must have shape \(150,\)"),
    ({"eval_weights": -torch.ones(N)}, {}, ValueError, "eval_weights must be finite and 0 or more"),
    ({"eval_weights": [1.0] * N}, {}, TypeError, "eval_weights must be a Tensor"),
    (
        {"eval_weights": torch.ones(N)},
        {"eval_data": torch.ones(3, 6).double()},
        ValueError,
        r"eval_weights must have shape \(3,\)",
    ),
    (
        {},
        {"eval_data": GradientFactors(torch.ones(3, 2, 5))},
        ValueError,
        "eval_data must have the mask's .* columns; got 5",
    ),
]


@pytest.mark.parametrize(
    "parameters,arguments,kind,text", REFUSED, ids=[str(at) for at in range(len(REFUSED))]
)
def test_what_a_query_refuses_before_any_work(
    parameters: dict[str, Any],
    arguments: dict[str, Any],
    kind: type[Exception],
    text: str,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("fishermask_fast.selector.query.masked_gradients", never)
    monkeypatch.setattr("fishermask_fast.selector.query.fisher_diagonal", never)
    selector = FisherMaskSelector(setting.model, mask="head", **parameters)
    with pytest.raises(kind, match=text):
        selector.query(setting.pool, K, progress=False, **arguments)


def test_labels_that_are_refused(setting: Setting) -> None:
    selector = FisherMaskSelector(setting.model, mask="head", class_weight="balanced")
    for labels, text in [
        (None, "class_weight='balanced' needs the labels"),
        ([0, 1], r"labels must have shape \(12,\)"),
        ([9] * 12, "labels must be classes 0..3"),
    ]:
        with pytest.raises(ValueError, match=text):
            selector.query(setting.pool, K, setting.labeled, progress=False, labels=labels)


def test_files_of_other_rows_are_not_taken(setting: Setting, tmp_path: Any) -> None:
    path = tmp_path / "factors.safetensors"
    masked_gradients(setting.model, setting.pool, setting.mask, out=path)
    with pytest.raises(ValueError, match="likelihood"):
        masked_gradients(setting.model, setting.pool, setting.mask, rows="top_class", out=path)
