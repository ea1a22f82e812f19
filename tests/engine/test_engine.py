"""The greedy engine: blocks against one pick at a time, ties, determinism, precision, memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pools import (
    ADVERSARIAL,
    Adversarial,
    assert_same_course,
    greedy,
    oracle,
    oracle_arguments,
    perturbed,
    picks,
    random_factors,
    random_fisher,
)

from fishermask_fast import GradientFactors, reference, select_batch
from fishermask_fast.ops import selection as ops

BLOCK_SIZES = (1, 2, 5, 32, None)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def real() -> tuple[GradientFactors, dict[str, Any]]:
    """400 real candidates, with what the oracle's network says of the rest."""
    full = oracle()
    arguments = {"fisher": full.fisher, "labeled_fisher": full.labeled_fisher}
    return full.pool[:400], arguments | {"n_labeled": full.n_labeled}


def test_blocks_of_real_gradients(real: tuple[GradientFactors, dict[str, Any]]) -> None:
    pool, arguments = real
    found = [select_batch(pool, 120, **arguments, block_size=size) for size in (1, 5, 32, None)]
    # Far enough for float32 products, and for the blocks to save passes.
    assert found[0].scores[0] > 1000 * found[0].scores[-1]
    assert found[0].passes == 120
    assert found[-1].passes < 20
    for selection in found[1:]:
        assert picks(selection) == picks(found[0])


@pytest.mark.parametrize("backward_steps", [0, 1])
def test_blocks_of_perturbed_candidates(backward_steps: int, generator: torch.Generator) -> None:
    part = torch.arange(0, 1280, 7)
    full = oracle().pool
    pool = perturbed(
        GradientFactors(full.middle[..., :50], full.coupling, full.hidden, part), 700, generator
    )
    first, *others = [
        select_batch(pool, 80, backward_steps=backward_steps, block_size=size, precision=precision)
        for size, precision in [(1, "float64"), (1, "mixed"), (7, "float64"), (None, "mixed")]
    ]
    for selection in others:
        assert picks(selection) == picks(first)
        assert selection.dropped.tolist() == first.dropped.tolist()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_adversarial_pools(adversarial: Adversarial, block_size: int | None) -> None:
    pool, n_select, fisher = adversarial.pool, adversarial.n_select, adversarial.fisher
    for lamb, expected in adversarial.expected.items():
        found = select_batch(pool, n_select, fisher, lamb=lamb, block_size=block_size)
        assert picks(found) == expected


@pytest.mark.parametrize("kind", ["all equal", "all zero"])
def test_equal_samples_are_picked_in_order(kind: str, generator: torch.Generator) -> None:
    assert picks(select_batch(ADVERSARIAL[kind](generator), 40)) == list(range(40))


def test_the_first_of_scattered_duplicates_wins(generator: torch.Generator) -> None:
    distinct = random_factors(generator, n=20, dtype=torch.float32)
    where = torch.randperm(100, generator=generator) % 20
    first = {sample: int((where == sample).nonzero()[0]) for sample in range(20)}
    fisher = distinct.fisher()
    expected = [first[i] for i in picks(select_batch(distinct, 1, fisher))]
    assert picks(select_batch(distinct[where], 1, fisher)) == expected
    # Among the next ones no later copy comes before an earlier one.
    order = picks(select_batch(distinct[where], 60, fisher))
    for sample in range(20):
        copies = [i for i in order if where[i] == sample]
        assert copies == sorted(copies)


@pytest.mark.parametrize("block_size", [1, 4, 32, None])
def test_backward_steps_among_ties(block_size: int | None, generator: torch.Generator) -> None:
    pool = ADVERSARIAL["duplicates"](generator)
    expected = select_batch(pool.double(), 12, backward_steps=2, block_size=1)
    found = select_batch(pool, 12, backward_steps=2, block_size=block_size)
    assert picks(found) == picks(expected)
    assert found.dropped.tolist() == expected.dropped.tolist()


def mixed_problem(generator: torch.Generator) -> dict[str, Any]:
    """Float32 factors whose scores fall far enough for float32 products and new set-ups."""
    factors = random_factors(generator, n=230, r=4, m=9, c=5, d=6, head="part", dtype=torch.float32)
    fisher = random_fisher(generator, factors.n_columns)
    return {"gradients": factors, "n_select": 110, "fisher": fisher, "lamb": 0.02}


@pytest.mark.parametrize("backward_steps", [0, 1])
def test_threads(backward_steps: int, generator: torch.Generator, threads: None) -> None:
    problem = mixed_problem(generator) | {"n_select": 70, "backward_steps": backward_steps}
    torch.set_num_threads(1)
    expected = select_batch(**problem)
    torch.set_num_threads(2)
    assert_same_course(select_batch(**problem), expected)


def test_instruction_sets(instruction_set: str, generator: torch.Generator) -> None:
    problem = mixed_problem(generator)
    v = problem["gradients"].to(dtype=torch.float64).dense()
    expected = greedy(v, 110, problem["fisher"], lamb=0.02)
    found = select_batch(**problem)
    assert found.setups > 1
    assert picks(found) == expected
    for kind in ("duplicates", "near duplicates", "all equal"):
        pool = ADVERSARIAL[kind](generator)
        assert picks(select_batch(pool, 25)) == greedy(pool.double(), 25)


def test_oracle_on_each_instruction_set(instruction_set: str) -> None:
    expected = oracle().cases[2]
    found = select_batch(oracle().pool, **oracle_arguments(expected))
    assert picks(found) == expected["indices"]


@pytest.mark.parametrize("chunk_size", [1, 7, 200])
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_chunk_sizes(chunk_size: int, backward_steps: int, generator: torch.Generator) -> None:
    problem = mixed_problem(generator) | {"backward_steps": backward_steps}
    assert_same_course(select_batch(**problem, chunk_size=chunk_size), select_batch(**problem))


@pytest.mark.parametrize("backward_steps", [0, 1])
def test_a_shuffled_pool(backward_steps: int, generator: torch.Generator) -> None:
    problem = mixed_problem(generator) | {"backward_steps": backward_steps}
    order = torch.randperm(230, generator=generator)
    expected = select_batch(**problem)
    shuffled = select_batch(**problem | {"gradients": problem["gradients"][order]})
    assert order[shuffled.indices].tolist() == picks(expected)
    assert order[shuffled.dropped].tolist() == expected.dropped.tolist()


def test_repeated_calls_are_bitwise_equal(generator: torch.Generator, threads: None) -> None:
    problem = mixed_problem(generator) | {"n_select": 40}
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        first, second = select_batch(**problem), select_batch(**problem)
        assert torch.equal(first.indices, second.indices)
        assert torch.equal(first.scores, second.scores)
        assert torch.equal(first.objective, second.objective)
        assert (first.setups, first.passes) == (second.setups, second.passes)


def test_global_state_is_left_alone(generator: torch.Generator) -> None:
    problem = mixed_problem(generator) | {"backward_steps": 1}
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled())
    expected = select_batch(**problem)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]
    torch.set_default_dtype(torch.float64)
    try:
        assert picks(select_batch(**problem)) == picks(expected)
        torch.set_default_dtype(torch.float16)
        assert picks(select_batch(**problem)) == picks(expected)
        assert torch.get_default_dtype() == torch.float16
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        inside = select_batch(**problem)
    assert picks(inside) == picks(expected)


def test_an_interrupt_leaves_nothing(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = mixed_problem(generator)
    factors: GradientFactors = problem["gradients"]
    before = [factors.dense().clone(), problem["fisher"].clone()]
    expected = select_batch(**problem)
    update, calls = ops.score_update, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return update(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ops, "score_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            select_batch(**problem, progress=True)
    assert torch.is_grad_enabled()
    assert torch.equal(factors.dense(), before[0]) and torch.equal(problem["fisher"], before[1])
    again = select_batch(**problem)
    assert torch.equal(again.objective, expected.objective)


def test_progress_goes_to_stderr(
    generator: torch.Generator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    problem = mixed_problem(generator) | {"backward_steps": 1}
    quiet = select_batch(**problem)
    assert capsys.readouterr() == ("", "")
    assert picks(select_batch(**problem, progress=True)) == picks(quiet)
    output = capsys.readouterr()
    assert output.out == ""
    # 220 picks and 110 removals.
    assert "/330" in output.err


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_scores_that_fall_steeply(block_size: int | None, seed: int) -> None:
    """Gradients of very unequal sizes: one pick can take all that the state held."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (1.5 * torch.randn(40, 1, 1, generator=generator)).exp() * 10
    pool = torch.randn(40, 9, 20, generator=generator, dtype=torch.float64) * sizes
    expected, _ = reference.select(pool, 15)
    assert picks(select_batch(pool, 15, block_size=block_size)) == expected
    narrow = pool.float()
    expected, _ = reference.select(narrow.double(), 15)
    assert picks(select_batch(narrow, 15, block_size=block_size)) == expected


# A process of its own, as peak memory is a process's. V would be 1.1 GB in float32.
_PEAK = """
import resource
import torch
from fishermask_fast import GradientFactors, select_batch

n, r, m, c, d = 20_000, 10, 122, 10, 128
probabilities = torch.randn(n, c).softmax(1)
coupling = probabilities.sqrt()[:, :, None] * (torch.eye(c) - probabilities[:, None, :])
factors = GradientFactors(0.1 * torch.randn(n, r, m), coupling, 0.1 * torch.randn(n, d))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = select_batch(factors, 3, backward_steps=1)
assert len(found) == 3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="needs getrusage")
def test_structured_selection_never_expands_v() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True, timeout=300
    )
    kib = 1 if sys.platform == "darwin" else 1024
    grown = int(run.stdout) * kib
    n, r, k = 20_000, 10, 1402
    assert grown < 0.5 * 4 * n * r * k
