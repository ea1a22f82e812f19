"""Equal samples are taken together: the picks of taking each for itself, for less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import HEADS, greedy, picks, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, Selection, select_batch
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.copies import DistinctCandidates
from fishermask_fast.factors import equal, next_of_equal

OPTIONS = (
    "none",
    "gains",
    "own gains",
    "clusters",
    "own clusters",
    "pending",
    "logdet",
    "removals",
)


def copied(
    generator: torch.Generator, head: str, n: int, dtype: torch.dtype
) -> tuple[GradientFactors, Tensor]:
    """n samples that are copies of a dozen, in no order, and of which each is a copy."""
    base = random_factors(generator, n=12, head=head, dtype=dtype)
    source = torch.randint(12, (n,), generator=generator)
    return base[source], source


def options_of(name: str, source: Tensor, generator: torch.Generator) -> dict[str, Any]:
    n = len(source)
    weights = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    known: dict[str, dict[str, Any]] = {
        "none": {},
        "gains": {"gain_weights": weights[source]},
        "own gains": {"gain_weights": 0.5 + torch.arange(n) % 2},
        "clusters": {"cluster_ids": source, "max_per_cluster": 3},
        "own clusters": {"cluster_ids": torch.arange(n) % 5, "max_per_cluster": 6},
        "pending": {"pending": [3, 50], "exclude": [0, 1, 2, 70]},
        "logdet": {"criterion": "logdet"},
        "removals": {"backward_steps": 1},
    }
    return known[name]


def one_by_one(pool: GradientFactors, k: int, fisher: Tensor, **given: Any) -> Selection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fishermask_fast.engine.inputs.DistinctCandidates", LocalCandidates)
        return select_batch(pool, k, fisher, precision="float64", block_size=1, **given)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    head=st.sampled_from(HEADS),
    option=st.sampled_from(OPTIONS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    block_size=st.sampled_from([None, 1, 3, 30]),
)
def test_picks_are_those_of_each_for_itself(
    seed: int, head: str, option: str, dtype: torch.dtype, block_size: int | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pool, source = copied(generator, head, 120, dtype)
    fisher = random_fisher(generator, pool.n_columns)
    given = options_of(option, source, generator)
    if option == "logdet":
        given["labeled_fisher"], fisher = 0.1 * fisher, None
        given["n_labeled"] = 10
    expected = one_by_one(pool, 25, fisher, **given)
    found = select_batch(pool, 25, fisher, block_size=block_size, **given)
    assert picks(found) == picks(expected)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lamb", [1.0, 1e-3])
def test_picks_are_the_definitions(lamb: float, generator: torch.Generator) -> None:
    pool, _ = copied(generator, "whole", 90, torch.float64)
    fisher = random_fisher(generator, pool.n_columns)
    expected = greedy(pool.dense(), 30, fisher, lamb=lamb)
    assert picks(select_batch(pool, 30, fisher, lamb=lamb)) == expected


def test_copies_take_no_updates(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, source = copied(generator, "whole", 2000, torch.float64)
    taken = []
    advance = DistinctCandidates._advance

    def counted(self: DistinctCandidates, chosen: Tensor, *arguments: Any) -> Any:
        taken.append(int(chosen.sum()))
        return advance(self, chosen, *arguments)

    monkeypatch.setattr(DistinctCandidates, "_advance", counted)
    found = select_batch(pool, 30, block_size=4)
    assert len(source[found.indices].unique()) > 6
    assert taken and max(taken) <= 12


@pytest.mark.parametrize("collide", [False, True])
def test_next_of_equal(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    v = torch.tensor([1.0, 2.0, 1.0, -0.0, 1.0, 0.0, 3.0]).reshape(7, 1, 1)
    if collide:
        monkeypatch.setattr(equal, "_digests", lambda rows: torch.zeros(len(rows)).long())
    beside = torch.zeros(7, 1)
    found = next_of_equal(GradientFactors(v), torch.arange(7), beside).tolist()
    full = [2, 7, 4, 5, 7, 7, 7]
    assert all(one in (7, other) for one, other in zip(found, full, strict=True))
    if not collide:
        assert found == full
        beside[4] = 1.0
        assert next_of_equal(GradientFactors(v), torch.arange(7), beside).tolist()[2] == 7
        some = torch.tensor([0, 3, 4, 5])
        assert next_of_equal(GradientFactors(v), some, 0 * beside).tolist() == [4, 5, 7, 7]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_none_may_be_equal(n: int) -> None:
    v = torch.arange(1.0, 6.0).reshape(5, 1, 1)
    found = next_of_equal(GradientFactors(v), torch.arange(n), torch.zeros(5, 1))
    assert found.tolist() == n * [5]


def test_nearly_equal_samples_may_all_differ(generator: torch.Generator) -> None:
    """Their sizes are the same to twelve digits, their numbers are not."""
    v = torch.randn(1, 2, 5, generator=generator, dtype=torch.float64).repeat(40, 1, 1)
    v *= 1 + 1e-14 * torch.arange(40).reshape(40, 1, 1)
    assert picks(select_batch(v, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", [0])
def test_a_pick_that_does_not_stand_leads_again(seed: int) -> None:
    """Copies among so many near-ties that the first blocks bring no pick."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(800, 3, 40, generator=generator, dtype=torch.float64)
    v = base[torch.randint(800, (2500,), generator=generator)]
    fisher = torch.eye(40, dtype=torch.float64)
    expected = one_by_one(GradientFactors(v), 3, fisher, lamb=1e-4)
    for block_size in (None, 5):
        found = select_batch(v, 3, fisher, lamb=1e-4, block_size=block_size)
        assert picks(found) == picks(expected)
