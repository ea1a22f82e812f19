"""What a preset fills, and what it leaves as it was given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pools import picks
from torch import nn

from fishermask_fast import FisherMaskSelector, masked_gradients
from fishermask_fast.selector.presets import fill

RECOMMENDED: dict[str, Any] = {"preset": "recommended"}


@pytest.mark.parametrize(
    ("given", "lamb", "eval_weights"),
    [
        ({}, 1.0, None),
        ({"preset": "published"}, 1.0, None),
        ({"preset": "published", "lamb": 0.5}, 0.5, None),
        (RECOMMENDED, "auto", "balanced"),
        (RECOMMENDED | {"lamb": 1.0}, 1.0, "balanced"),
        (RECOMMENDED | {"prior_precision": 2.0}, 1.0, "balanced"),
        (RECOMMENDED | {"eval_weights": "uncovered"}, "auto", "uncovered"),
        (RECOMMENDED | {"criterion": "logdet"}, "auto", None),
        (RECOMMENDED | {"likelihood": "bernoulli"}, "auto", None),
        (RECOMMENDED | {"likelihood": lambda z: z[:, None]}, "auto", None),
        (RECOMMENDED | {"rows": "top_class"}, "auto", "balanced"),
    ],
)  # fmt: skip
def test_a_preset_fills_what_is_none(
    given: dict[str, Any], lamb: object, eval_weights: object
) -> None:
    filled = fill(given)
    assert (filled["lamb"], filled.get("eval_weights")) == (lamb, eval_weights)
    assert fill(filled) == filled and "preset" not in filled


def test_a_preset_holds_no_approximation() -> None:
    for preset in ("published", "recommended"):
        filled = fill({"preset": preset, "lamb": None, "eval_weights": None})
        assert set(filled) == {"lamb", "eval_weights"}


@pytest.mark.parametrize(
    "given",
    [{"criterion": "logdet"}, {"likelihood": "bernoulli"}, {"likelihood": "gaussian"}, {}],
    ids=str,
)
def test_a_query_goes_through_where_nothing_can_be_balanced(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, pool = nn.Linear(5, 3), torch.randn(30, 5)
    found = FisherMaskSelector(model, **RECOMMENDED, **given).query(pool, 4, progress=False)
    weights = {} if given else {"eval_weights": "balanced"}
    plain = FisherMaskSelector(model, lamb="auto", **weights, **given)
    assert picks(found) == picks(plain.query(pool, 4, progress=False))


def test_factors_as_eval_data_count_alike() -> None:
    torch.manual_seed(0)
    model, pool = nn.Linear(5, 3), torch.randn(30, 5)
    selector = FisherMaskSelector(model, mask="head", **RECOMMENDED)
    aimed = masked_gradients(model, torch.randn(8, 5), selector.make_mask(pool))
    found = selector.query(pool, 4, eval_data=aimed, progress=False)
    plain = FisherMaskSelector(model, mask="head", lamb="auto")
    assert picks(found) == picks(plain.query(pool, 4, eval_data=aimed, progress=False))


def test_a_selector_keeps_what_it_was_given() -> None:
    selector = FisherMaskSelector(nn.Linear(5, 3), **RECOMMENDED)
    selector.query(torch.randn(30, 5), 4, progress=False)
    assert (selector.lamb, selector.eval_weights) == (None, None)
    assert repr(selector) == "FisherMaskSelector(model=Linear, preset='recommended')"
