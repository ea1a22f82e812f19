"""Selections from the shards of several processes: the picks of one process that holds all."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import start
from pools import picks
from ranks import FAILING, NAMES, by_turns, problem, query, uneven

from fishermask_fast import Selection, select_batch

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed, gloo"
)

RANKS = str(Path(__file__).parents[1] / "ranks.py")
SPLITS = (uneven, by_turns)
ERRORS = {
    "nan_on_the_last": (ValueError, "gradients must be finite; 1 of 8 samples"),
    "other_arguments": (ValueError, "all ranks must be called with the same arguments"),
    "other_columns": (ValueError, "same columns and dtype on all ranks"),
    "wrong_type": (TypeError, "rank 1: gradients must be a Tensor"),
    "overlapping": (ValueError, "sample_indices of all ranks together must be 0.."),
    "nothing": (ValueError, "no samples on any rank"),
    "half_spread": (ValueError, "must both be DataLoaders with a DistributedSampler, or neither"),
    "anothers_sampler": (ValueError, "rank 0: the DistributedSampler must be rank 0 of"),
    "other_model": (ValueError, "model is a Linear with digest"),
    "wrong_width_on_one": (ValueError, "rank 1: Linear does not take unlabeled samples"),
}
# Cases in which rank 1 gives something else.
OF_TWO = {
    "other_arguments",
    "other_columns",
    "wrong_type",
    "overlapping",
    "anothers_sampler",
    "other_model",
    "wrong_width_on_one",
}


@pytest.fixture(scope="module", params=[1, 2, 4])
def found(request: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank of a group found."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = start(RANKS, request.param, folder)
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(request.param)]


@functools.cache
def alone(name: str) -> Selection:
    return select_batch(**problem(name))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_picks_are_those_of_one_process(name: str, split: Any, found: list[dict[str, Any]]) -> None:
    expected = alone(name)
    for rank in found:
        selection = rank[f"{name} {split.__name__}"]
        assert picks(selection) == picks(expected)
        assert selection.dropped.tolist() == expected.dropped.tolist()
        torch.testing.assert_close(selection.scores, expected.scores, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("how", ["by sampler", "from shards", "into files", "from files"])
def test_queries_pick_what_one_process_does(how: str, found: list[dict[str, Any]]) -> None:
    expected = query()
    for rank in found:
        assert picks(rank[f"query {how}"]) == picks(expected)
        torch.testing.assert_close(rank[f"query {how}"].scores, expected.scores)


@pytest.mark.parametrize("case", FAILING)
def test_an_error_of_one_rank_is_one_of_all(case: Any, found: list[dict[str, Any]]) -> None:
    if len(found) == 1 and case.__name__ in OF_TWO:
        pytest.skip("needs a second rank")
    kind, text = ERRORS[case.__name__]
    for rank in found:
        assert rank[case.__name__][0] is kind
        assert text in rank[case.__name__][1]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_rank_ends_the_others(how: str, tmp_path: Path) -> None:
    began = time.monotonic()
    *others, lost = start(RANKS, 3, tmp_path, how)
    try:
        for rank in others:
            _, errors = rank.communicate(timeout=60)
            assert rank.returncode == 1
            assert "a process has died, or has not answered within the group's timeout" in errors
    finally:
        lost.kill()
        lost.communicate()
    assert time.monotonic() - began < 45


def test_places_need_a_group() -> None:
    with pytest.raises(ValueError, match="got no group"):
        select_batch(torch.randn(3, 1, 2), 1, sample_indices=torch.arange(3))
