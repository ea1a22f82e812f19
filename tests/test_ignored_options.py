"""Options that have no effect are named in a warning, and those that have one are not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from fishermask_fast import FisherMask, FisherMaskSelector


def query(**options: Any) -> list[str]:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    if options.get("mask") == "made before":
        options["mask"] = FisherMask.head(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FisherMaskSelector(model, **options).query(torch.randn(8, 3), 2, progress=False)
    return [str(each.message) for each in caught if "ignored" in str(each.message)]


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        ({"mask": "head", "fraction": 0.5, "seed": 3}, "fraction"),
        ({"mask": "random", "fraction": 0.5, "keep_head": False}, "keep_head"),
        ({"mask": "relative", "fraction": 0.5}, "fraction"),
        ({"mask": "made before", "fisher_samples": 5}, "fisher_samples"),
    ],
)
def test_ignored_options_are_named(options: dict[str, Any], ignored: str) -> None:
    (message,) = query(**options)
    assert message.startswith(f"ignored: {ignored}; ")


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "head", "lamb": 2.0, "backward_steps": 1, "weighting": "none"},
        {"mask": "global", "fraction": 0.9, "keep_head": False, "fisher_samples": 5, "seed": 1},
        {"mask": "random", "fraction": 0.5, "seed": 4},
    ],
)
def test_options_that_are_read_are_not(options: dict[str, Any]) -> None:
    assert query(**options) == []
