"""What a model says of its own likelihood, and what is said where another was asked for."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import FisherMask, FisherMaskSelector, masked_gradients
from fishermask_fast.gradients import fisher_diagonal


class Model(nn.Module):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def configured(problem: str | None) -> SimpleNamespace:
    return SimpleNamespace(problem_type=problem)


class Inner(nn.Module):
    def __init__(self, problem: str) -> None:
        super().__init__()
        self.config = configured(problem)


class MultilabelAccuracy(nn.Module):
    pass


MultilabelAccuracy.__module__ = "torchmetrics.classification.accuracy"

STATED: dict[str, tuple[dict[str, Any], str, str]] = {
    "multi-label": (
        {"config": configured("multi_label_classification")},
        "bernoulli",
        "problem_type is 'multi_label_classification'",
    ),
    "single-label": (
        {"config": configured("single_label_classification")},
        "categorical",
        "problem_type is 'single_label_classification'",
    ),
    "regression": ({"config": configured("regression")}, "gaussian", "'regression'"),
    "inside": ({"body": Inner("multi_label_classification")}, "bernoulli", "problem_type"),
    "BCE": ({"loss": nn.BCEWithLogitsLoss()}, "bernoulli", r"a BCEWithLogitsLoss \(loss\)"),
    "soft margin": ({"loss": nn.MultiLabelSoftMarginLoss()}, "bernoulli", "MultiLabelSoftMargin"),
    "MSE": ({"loss": nn.MSELoss()}, "gaussian", r"a MSELoss \(loss\)"),
    "cross entropy": ({"loss": nn.CrossEntropyLoss()}, "categorical", "a CrossEntropyLoss"),
    "metric": ({"accuracy": MultilabelAccuracy()}, "bernoulli", r"MultilabelAccuracy \(accuracy\)"),
}
SILENT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no problem": {"config": configured(None)},
    "another config": {"config": {"problem_type": "multi_label_classification"}},
    "a problem of its own": {"config": configured("ranking")},
    "two losses": {"loss": nn.BCEWithLogitsLoss(), "other": nn.CrossEntropyLoss()},
    "two configurations": {
        "one": Inner("regression"),
        "two": Inner("multi_label_classification"),
    },
}


@pytest.mark.parametrize(("parts", "stated", "why"), STATED.values(), ids=STATED.keys())
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_disagreement_is_said(
    parts: dict[str, Any], stated: str, why: str, likelihood: str
) -> None:
    model, x = Model(**parts), torch.randn(5, 4)
    calls = (
        lambda: masked_gradients(model, x, FisherMask.head(model), likelihood=likelihood),
        lambda: fisher_diagonal(model, x, likelihood=likelihood),
        lambda: FisherMaskSelector(model, mask="head", likelihood=likelihood).query(
            x, 2, progress=False
        ),
    )
    for call in calls:
        if likelihood == stated:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                call()
            continue
        with pytest.warns(UserWarning, match=f'{likelihood}.*{why}.*"{stated}"') as said:
            call()
        assert {record.filename for record in said} == {__file__}


@pytest.mark.parametrize("parts", SILENT.values(), ids=SILENT.keys())
def test_nothing_is_said_where_nothing_is_certain(parts: dict[str, Any]) -> None:
    model = Model(**parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked_gradients(model, torch.randn(5, 4), FisherMask.head(model))


def test_functions_are_their_users_affair() -> None:
    model = Model(loss=nn.MSELoss())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked_gradients(
            model, torch.randn(5, 4), FisherMask.head(model), likelihood=torch.diag_embed
        )
