"""The engine that picks whole blocks on the device, run on the CPU: the picks of the other one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pools import (
    ADVERSARIAL,
    HEADS,
    Adversarial,
    assert_same_course,
    oracle,
    oracle_arguments,
    picks,
    random_factors,
    random_fisher,
)
from torch import Tensor

from fishermask_fast import Selection, reference, select_batch
from fishermask_fast.engine.blocks import Engine
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.device_blocks import BlockEngine
from fishermask_fast.engine.directions import Directions
from fishermask_fast.engine.problem import SetUp
from fishermask_fast.ops.blocks import pick_block

BLOCK_SIZES = (1, 5, None)


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every selection runs by blocks; how many clear picks each block began with."""
    clear: list[int] = []
    count = BlockEngine._clear

    def counted(self: BlockEngine, *arguments: Any) -> int:
        clear.append(count(self, *arguments))
        return clear[-1]

    monkeypatch.setattr("fishermask_fast.engine.greedy.Engine", BlockEngine)
    # What it is given on a GPU.
    monkeypatch.setattr("fishermask_fast.engine.inputs.DistinctCandidates", LocalCandidates)
    monkeypatch.setattr(BlockEngine, "_clear", counted)
    return clear


def both(monkeypatch: pytest.MonkeyPatch, **problem: Any) -> tuple[Selection, Selection]:
    """The selection by blocks and by the other engine."""
    found = select_batch(**problem)
    with monkeypatch.context() as patch:
        patch.setattr("fishermask_fast.engine.greedy.Engine", Engine)
        return found, select_batch(**problem)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_adversarial_pools(
    adversarial: Adversarial, block_size: int | None, by_blocks: list[int]
) -> None:
    pool, n_select, fisher = adversarial.pool, adversarial.n_select, adversarial.fisher
    for lamb, expected in adversarial.expected.items():
        found = select_batch(pool, n_select, fisher, lamb=lamb, block_size=block_size)
        assert picks(found) == expected
    # A pool as large against lamb as that one is left to the other engine.
    assert by_blocks or adversarial.kind == "one dominant"


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("case", range(3))
def test_oracle(case: int, precision: str, by_blocks: list[int]) -> None:
    expected = oracle().cases[case]
    found = select_batch(oracle().pool, **oracle_arguments(expected), precision=precision)
    assert picks(found) == expected["indices"]
    # Nearly all picks are made inside blocks, not handed to the host.
    assert sum(by_blocks) > 0.9 * len(found)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_heads_and_removals(
    head: str,
    backward_steps: int,
    generator: torch.Generator,
    by_blocks: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors = random_factors(generator, n=150, r=4, m=9, c=5, d=6, head=head, dtype=torch.float32)
    fisher = random_fisher(generator, factors.n_columns)
    problem = {"gradients": factors, "n_select": 60, "fisher": fisher, "lamb": 0.02}
    found, expected = both(monkeypatch, **problem, backward_steps=backward_steps)
    assert_same_course(found, expected)
    assert max(by_blocks) > 4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_scores_that_fall_steeply(block_size: int | None, seed: int, by_blocks: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = (1.5 * torch.randn(40, 1, 1, generator=generator)).exp() * 10
    pool = torch.randn(40, 9, 20, generator=generator, dtype=torch.float64) * sizes
    for gradients in (pool, pool.float()):
        expected, _ = reference.select(gradients.double(), 15)
        assert picks(select_batch(gradients, 15, block_size=block_size)) == expected


def test_ties_go_to_the_lowest_index(generator: torch.Generator, by_blocks: list[int]) -> None:
    for kind in ("all equal", "all zero"):
        assert picks(select_batch(ADVERSARIAL[kind](generator), 40)) == list(range(40))
    # All of it is in doubt, and goes to the host.
    assert not any(by_blocks[:-1])


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (10, 7)])
def test_small_pools(
    n: int, shape: tuple[int, int], generator: torch.Generator, by_blocks: list[int]
) -> None:
    pool = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    for n_select in range(1, n + 1):
        assert picks(select_batch(pool, n_select)) == reference.select(pool, n_select)[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_updates_are_those_of_one_pick_at_a_time(sign: int, generator: torch.Generator) -> None:
    factors = random_factors(generator, n=12, r=3, m=6, head="part")
    k, scale = factors.n_columns, 0.6
    v = scale * factors.dense()
    fisher = random_fisher(generator, k)
    held = torch.einsum("nrk,nrl->kl", v, v) if sign < 0 else torch.zeros(k, k, dtype=torch.float64)
    inverse = torch.linalg.inv(torch.eye(k, dtype=torch.float64) + held)
    double = inverse @ fisher @ inverse
    flat = v.flatten(0, 1)
    y, z = flat @ inverse, flat @ double
    traces = (z @ flat.T).diagonal().view(12, 3).sum(1)
    found = pick_block(y @ flat.T, z @ flat.T, traces, 3, 5, sign=sign)
    engine = BlockEngine.__new__(BlockEngine)
    engine._sign = sign
    u, w = engine._updates(found, y.view_as(v), z.view_as(v), 5)

    matrices = (matrix.contiguous().clone() for matrix in (inverse, double))
    directions = Directions(factors.n_rows, scale, SetUp(*matrices, 0.0), sign, 5)
    directions.begin()
    for t, slot in enumerate(found.slots.tolist()):
        (update,) = directions.updates(factors, torch.tensor([slot]), [slot])
        assert abs(update.score - float(found.scores[t])) < 1e-12 * abs(update.score)
        directions.add(update.alone())

    def changes(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        u, w = u.reshape(-1, k), w.reshape(-1, k)
        return u.T @ u, u.T @ w + w.T @ u

    own_u, own_w, _ = directions.block(5)
    for got, expected in zip(changes(u, w), changes(own_u, own_w), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_a_block_waits_for_the_device_three_times(
    generator: torch.Generator, by_blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads a tensor's values on the host would make it wait for a GPU."""
    reads: list[str] = []
    per_block: list[list[str]] = []

    def recording(name: str) -> None:
        plain = getattr(Tensor, name)

        def read(self: Tensor, *arguments: Any, **options: Any) -> Any:
            reads.append(name)
            return plain(self, *arguments, **options)

        monkeypatch.setattr(Tensor, name, read)

    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero", "cpu"):
        recording(name)
    take_block = BlockEngine._take_block

    def counted(self: BlockEngine, n_left: int) -> None:
        reads.clear()
        take_block(self, n_left)
        if by_blocks[-1] == 16:
            per_block.append(list(reads))

    monkeypatch.setattr(BlockEngine, "_take_block", counted)
    factors = random_factors(generator, n=400, r=3, m=8, head="part")
    fisher = random_fisher(generator, factors.n_columns)
    select_batch(factors, 128, fisher, block_size=16)
    # Two reports, and between them which candidates are not among the leaders.
    assert len(per_block) > 3
    assert sorted(per_block, key=len)[0] == ["tolist", "nonzero", "tolist"]
