"""The selector's options against the definition on its own model, and what it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from aims import NAMES, K, N, Setting, case

from fishermask_fast import FisherMaskSelector, GradientFactors, masked_gradients, reference
from fishermask_fast.selector.targets import (
    balanced_weights,
    scarce_class_weights,
    uncovered_weights,
)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("name", NAMES)
def test_a_query_picks_what_the_definition_does(name: str, setting: Setting) -> None:
    parameters, arguments, options = case(setting, name)
    expected = setting.defined(**options)
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
    ({"criterion": "D"}, {}, ValueError, "criterion must be one of trace, logdet"),
    ({"class_weight": "scarce"}, {}, ValueError, "class_weight must be None or 'balanced'"),
    ({"eval_weights": "all"}, {}, ValueError, "eval_weights must be 'balanced' or 'uncovered'"),
    ({"rows": "one"}, {}, ValueError, "rows must be one of all, top_class"),
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


BAD_LABELS: list[tuple[Any, type[Exception], str]] = [
    (None, ValueError, "class_weight='balanced' needs the labels"),
    ([0, 1], ValueError, r"labels must have shape \(12,\)"),
    ([], ValueError, r"labels must have shape \(12,\)"),
    (torch.zeros(12, 1).long(), ValueError, r"labels must have shape \(12,\)"),
    ([4] * 12, ValueError, "labels must be classes 0..3; got 4 to 4"),
    ([0] * 11 + [-1], ValueError, "labels must be classes 0..3; got -1 to 0"),
    ([10**30] * 12, ValueError, "labels must be classes"),
    ([0.0] * 12, TypeError, "labels must be integers, one a labeled sample; got 0.0"),
    ([0] * 11 + [1.5], TypeError, "labels must be integers, one a labeled sample; got 1.5"),
    ([0] * 11 + [float("nan")], TypeError, "labels must be integers, .* got nan"),
    ([0] * 11 + [None], TypeError, "labels must be integers, .* got None"),
    ([True] * 12, TypeError, "labels must be integers, .* got True"),
    (["cat"] * 12, TypeError, "labels must be integers, .* got 'cat'"),
    ([[0]] * 12, TypeError, r"labels must be integers, .* got \[0\]"),
    ("0" * 12, TypeError, "labels must be integers, .* got str"),
    (3, TypeError, "labels must be integers, .* got int"),
    ({"a": 1}, TypeError, "labels must be integers, .* got dict"),
    (torch.zeros(12), TypeError, "labels must be integers, .* got torch.float32"),
    (torch.zeros(12).bool(), TypeError, "labels must be integers, .* got torch.bool"),
    (torch.zeros(12).cfloat(), TypeError, "labels must be integers, .* got torch.complex64"),
    (np.array(["cat"] * 12), TypeError, "labels must hold"),
    (np.array([0.5] * 12), TypeError, "labels must be integers, .* got torch.float64"),
]


@pytest.mark.parametrize("labels,kind,text", BAD_LABELS, ids=range(len(BAD_LABELS)))
def test_labels_that_are_refused_before_any_work(
    labels: Any,
    kind: type[Exception],
    text: str,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("fishermask_fast.selector.query.masked_gradients", never)
    selector = FisherMaskSelector(setting.model, mask="head", class_weight="balanced")
    with pytest.raises(kind, match=text):
        selector.query(setting.pool, K, setting.labeled, progress=False, labels=labels)


@pytest.mark.parametrize(
    "form", [list, tuple, np.asarray, torch.as_tensor, lambda x: torch.tensor(x, dtype=torch.uint8)]
)
def test_labels_in_every_form(form: Any, setting: Setting) -> None:
    parameters, arguments, options = case(setting, "class_weight and costs")
    arguments = arguments | {"labels": form(setting.labels.tolist())}
    assert setting.query(parameters, arguments) == setting.defined(**options)


@pytest.mark.parametrize("label", [1.5, "cat", None, True, torch.tensor(0.5), torch.ones(2)])
def test_labels_of_a_data_set_are_checked_alike(label: Any, setting: Setting) -> None:
    """A label that is no class was once counted as the class below it."""
    known = [(row, 0) for row in setting.labeled[:3]] + [(setting.labeled[3], label)]

    class Known(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(known)

        def __getitem__(self, at: int) -> Any:
            return known[at]

    selector = FisherMaskSelector(setting.model, mask="head", class_weight="balanced")
    loader = torch.utils.data.DataLoader(
        Known(), collate_fn=lambda items: torch.stack([x for x, _ in items])
    )
    with pytest.raises(TypeError, match="labels must be integers"):
        selector.query(setting.pool, K, loader, progress=False)


def test_empty_eval_data_are_refused(setting: Setting) -> None:
    selector = FisherMaskSelector(setting.model, mask="head")
    with pytest.raises(ValueError, match="eval_data"):
        selector.query(setting.pool, K, progress=False, eval_data=setting.pool[:0])


# What changes V, and another value of it.
CHANGES_V: dict[str, Any] = {
    "likelihood": "bernoulli",
    "weighting": "none",
    "rank": 2,
    "rows": "top_class",
}
# The pool and the network are looked at themselves; the rest changes no number of V.
LOOKED_AT = ("model", "data", "mask", "indices")
NO_CHANGE = ("batch_size", "device", "progress", "out")


@pytest.mark.parametrize("name", CHANGES_V)
def test_what_changes_v_is_in_the_metadata_of_its_file(
    name: str, setting: Setting, tmp_path: Any
) -> None:
    path = tmp_path / "factors.safetensors"
    usual = masked_gradients(setting.model, setting.pool, setting.mask, out=path)
    with pytest.raises(ValueError, match="likelihood" if name == "rows" else name):
        masked_gradients(
            setting.model, setting.pool, setting.mask, out=path, **{name: CHANGES_V[name]}
        )
    other = masked_gradients(
        setting.model, setting.pool, setting.mask, out=tmp_path / "b", **{name: CHANGES_V[name]}
    )
    assert usual.metadata != other.metadata


def test_no_argument_of_masked_gradients_is_forgotten() -> None:
    names = inspect.signature(masked_gradients).parameters
    assert sorted(names) == sorted([*CHANGES_V, *LOOKED_AT, *NO_CHANGE])


def test_files_of_other_rows_are_not_taken(setting: Setting, tmp_path: Any) -> None:
    path = tmp_path / "factors.safetensors"
    masked_gradients(setting.model, setting.pool, setting.mask, out=path)
    with pytest.raises(ValueError, match="likelihood"):
        masked_gradients(setting.model, setting.pool, setting.mask, rows="top_class", out=path)
