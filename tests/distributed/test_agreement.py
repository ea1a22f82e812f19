"""Ranks that are called differently all get one error, which says what differs and where."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import ranks_apart
import torch
import torch.distributed as dist
from groups import found_by
from ranks_apart import APART, WRONG_ON_ONE

from fishermask_fast import FisherMaskSelector, select_batch
from fishermask_fast.distributed import described

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed, gloo"
)

SIZE = 3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank of a group found."""
    return found_by(ranks_apart.__file__, SIZE, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", APART)
def test_what_differs_is_an_error_of_all_ranks(case: str, found: list[dict[str, Any]]) -> None:
    kind, text = found[0][case]
    assert [rank[case] for rank in found] == [(kind, text)] * SIZE
    assert kind == "ValueError", text
    assert APART[case][1] in text
    assert "rank 1" in text or "ranks 0 and 1" in text


@pytest.mark.parametrize("case", WRONG_ON_ONE)
def test_what_is_wrong_on_one_rank_is_an_error_of_all(
    case: str, found: list[dict[str, Any]]
) -> None:
    kind, text = found[0][case]
    assert [rank[case] for rank in found] == [(kind, text)] * SIZE
    assert kind == "TypeError" and text.startswith("rank 1: "), text


def test_the_labeled_fisher_of_rank_0_counts(found: list[dict[str, Any]]) -> None:
    kind, picks = found[0]["labeled_fisher of rank 0"]
    assert kind == "picks" and len(picks) == 6
    assert [rank["labeled_fisher of rank 0"] for rank in found] == [(kind, picks)] * SIZE


def test_what_does_not_matter_is_no_difference(found: list[dict[str, Any]]) -> None:
    kind, picks = found[0]["equal in effect"]
    assert kind == "picks" and len(picks) == 6
    assert [rank["equal in effect"] for rank in found] == [(kind, picks)] * SIZE


@pytest.mark.parametrize(
    ("function", "compared", "own"),
    [
        (FisherMaskSelector.__init__, ranks_apart.PARAMETERS, ranks_apart.OWN_PARAMETERS),
        (FisherMaskSelector.query, ranks_apart.QUERY, ranks_apart.OWN_QUERY),
        (select_batch, ranks_apart.SELECTION, ranks_apart.OWN_SELECTION),
    ],
)
def test_no_argument_is_forgotten(function: Any, compared: Any, own: tuple[str, ...]) -> None:
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    assert sorted(names) == sorted([*compared, *own])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True), (1, torch.tensor(1), True), (0.1, 0.2, False), (True, 1, False),
        (None, "None", False), ("a", "a", True), (torch.eye(2), torch.eye(2), True),
        (torch.eye(2), torch.eye(2).double(), False), (len, len, True), (len, max, False),
        (torch.arange(4), torch.arange(4).flip(0), False), (2**70, 2.0**70, True),
    ],
    ids=str,
)  # fmt: skip
def test_descriptions(one: object, other: object, same: bool) -> None:
    assert (described(one) == described(other)) is same
