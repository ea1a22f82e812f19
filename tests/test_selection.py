"""fast_select and select_batch: the oracle's picks, the reference's picks, and their scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pools import HEADS, oracle, oracle_arguments, picks, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, fast_select, reference, select_batch

FIXTURE_CASES = range(3)


@pytest.mark.parametrize("case", FIXTURE_CASES)
def test_oracle_from_factors(case: int, assert_close: Callable[..., None]) -> None:
    expected = oracle().cases[case]
    found = select_batch(oracle().pool, **oracle_arguments(expected))
    assert picks(found) == expected["indices"]
    scores = torch.tensor(expected["scores"], dtype=torch.float64)
    changes = -found.objective.diff()[: len(scores)]
    # Each to its own size, as the last are a ten-thousandth of the first. The oracle's head was
    # multiplied out in float64, not from a coupling rounded to float32.
    assert_close(changes / scores, torch.ones_like(scores), dtype=torch.float32, condition=10)
    # Blocks are worth their verification once they have grown, on real gradients.
    assert found.passes <= max(0.1 * len(scores), 20)


def test_oracle_scores_in_float64(assert_close: Callable[..., None]) -> None:
    expected = oracle().cases[2]
    arguments = oracle_arguments(expected)
    wide = oracle(torch.float64)
    arguments |= {"fisher": wide.fisher, "labeled_fisher": wide.labeled_fisher}
    found = select_batch(wide.pool, **arguments)
    assert picks(found) == expected["indices"]
    scores = torch.tensor(expected["scores"], dtype=torch.float64)
    assert_close(found.scores / scores, torch.ones_like(scores), k=1402, condition=1e3)


@pytest.mark.parametrize("case", FIXTURE_CASES)
def test_oracle_from_a_dense_tensor(case: int) -> None:
    expected = oracle().cases[case]
    assert fast_select(oracle().pool.dense(), **oracle_arguments(expected)) == expected["indices"]


def problem(
    generator: torch.Generator, dtype: torch.dtype = torch.float64, **sizes: Any
) -> tuple[GradientFactors, Tensor, Tensor]:
    factors = random_factors(generator, dtype=dtype, **sizes)
    k = factors.n_columns
    return factors, random_fisher(generator, k), random_fisher(generator, k)


def expected_from(
    factors: GradientFactors, n_select: int, *matrices: Tensor | None, **options: Any
) -> tuple[list[int], list[float]]:
    """The published formula, in float64 on what the factors store."""
    return reference.select(factors.to(dtype=torch.float64).dense(), n_select, *matrices, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backward_steps", [0, 1, 2])
@pytest.mark.parametrize("block_size", [1, 3, None])
def test_random_pools(
    head: str,
    dtype: torch.dtype,
    backward_steps: int,
    block_size: int | None,
    generator: torch.Generator,
) -> None:
    factors, fisher, labeled = problem(generator, dtype, head=head)
    options = {"lamb": 0.3, "n_labeled": 5, "backward_steps": backward_steps}
    expected, _ = expected_from(factors, 12, fisher, labeled, **options)
    for gradients in (factors, factors.dense()):
        selection = select_batch(gradients, 12, fisher, labeled, **options, block_size=block_size)
        assert picks(selection) == expected


SIZES = {
    "one row": {"r": 1},
    "two classes": {"r": 2, "c": 2},
    "two classes, one row": {"r": 1, "c": 2},
    "seven classes": {"r": 7, "c": 7, "d": 5, "n": 30},
    "many classes": {"r": 31, "c": 32, "d": 3, "n": 25},
    "one column": {"r": 2, "m": 1, "head": "none"},
    "more columns than rows of all": {"n": 15, "r": 1, "m": 60},
    "as many rows as columns": {"r": 9, "m": 9, "head": "none"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward_steps", [0, 1])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_sizes(
    sizes: dict[str, Any], backward_steps: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    factors, fisher, labeled = problem(generator, dtype, **sizes)
    options = {"lamb": 0.5, "n_labeled": 9, "backward_steps": backward_steps}
    expected, _ = expected_from(factors, 7, fisher, labeled, **options)
    assert fast_select(factors, 7, fisher, labeled, **options) == expected
    assert fast_select(factors.dense(), 7, fisher, labeled, **options) == expected


@pytest.mark.parametrize("seed", range(10))
def test_many_random_pools(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = random_factors(generator, n=60, r=2 + seed % 3, head=HEADS[seed % len(HEADS)])
    expected, _ = expected_from(factors, 30)
    assert fast_select(factors, 30) == expected


@pytest.mark.parametrize("lamb", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_lamb(
    dtype: torch.dtype,
    lamb: float,
    generator: torch.Generator,
) -> None:
    # B and M^-1 F M^-1 end as differences of numbers 1 / lamb^2 times as large.
    factors, fisher, _ = problem(generator, dtype, n=50)
    expected, _ = expected_from(factors, 30, fisher, lamb=lamb)
    assert fast_select(factors, 30, fisher, lamb=lamb) == expected


def test_float32_products_and_new_setups(generator: torch.Generator) -> None:
    factors, fisher, _ = problem(generator, torch.float32, n=300, r=2, m=9, c=4, d=6)
    expected, _ = expected_from(factors, 150, fisher, lamb=0.03)
    mixed = select_batch(factors, 150, fisher, lamb=0.03)
    # Scores fell by 1000 and then by 64, so float32 products and a set-up after them came in.
    assert mixed.scores[0] > 64_000 * mixed.scores[-1]
    assert mixed.setups > 1
    assert picks(mixed) == expected
    wide = select_batch(factors, 150, fisher, lamb=0.03, precision="float64")
    assert picks(wide) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", ["none", "part"])
def test_half_precision_is_read_exactly(
    dtype: torch.dtype, head: str, generator: torch.Generator
) -> None:
    factors = random_factors(generator, head=head, dtype=dtype)
    expected, _ = expected_from(factors, 12)
    assert fast_select(factors, 12) == expected
    # What the products come to has more digits than half precision, so this is not the same input.
    dense = GradientFactors(factors.dense())
    assert fast_select(factors.dense(), 12) == expected_from(dense, 12)[0]


@pytest.mark.parametrize("fisher_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_matrices_of_another_dtype(
    dtype: torch.dtype, fisher_dtype: torch.dtype, generator: torch.Generator
) -> None:
    factors, fisher, labeled = problem(generator, dtype, head="none")
    fisher, labeled = fisher.to(fisher_dtype), labeled.to(fisher_dtype)
    expected, _ = expected_from(factors, 9, fisher.double(), labeled.double(), n_labeled=4)
    assert fast_select(factors, 9, fisher, labeled, n_labeled=4) == expected
    assert fast_select(factors, 9, fisher, labeled.double(), n_labeled=4) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_strided_gradients(dtype: torch.dtype, generator: torch.Generator) -> None:
    dense = random_factors(generator, n=40, r=3, m=8, head="none").middle.to(dtype)
    expected, _ = expected_from(GradientFactors(dense), 10)
    everywhere = torch.randn(80, 8, 6).to(dtype)
    everywhere[::2, :, ::2] = dense.mT
    for strided in (dense.mT.contiguous().mT, everywhere[::2, :, ::2].mT):
        assert not strided.is_contiguous()
        assert fast_select(strided, 10) == expected


def test_fisher_is_by_default_the_pools(generator: torch.Generator) -> None:
    factors = random_factors(generator)
    v = factors.dense()
    mean = torch.einsum("nrk,nrl->kl", v, v) / len(v)
    assert fast_select(factors, 10) == fast_select(factors, 10, mean)


def literal_objective(
    factors: GradientFactors, fisher: Tensor, labeled: Tensor, included: Tensor, lamb: float
) -> float:
    """tr(M^-1 F) with M summed up and inverted; 10 selected beside 6 labeled."""
    v = factors.dense()[included] * (10 / 16) ** 0.5
    m = lamb * torch.eye(len(fisher), dtype=torch.float64) + labeled * 6 / 16
    m = m + torch.einsum("nrk,nrl->kl", v, v)
    return float((torch.linalg.inv(m) @ fisher).trace())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("block_size", [1, 4, None])
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_objective_and_scores(
    head: str,
    backward_steps: int,
    block_size: int | None,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    factors, fisher, labeled = problem(generator, head=head)
    found = select_batch(
        factors,
        10,
        fisher,
        labeled,
        lamb=0.2,
        n_labeled=6,
        backward_steps=backward_steps,
        block_size=block_size,
    )
    assert found.indices.dtype == found.dropped.dtype == torch.int64
    assert found.scores.dtype == found.objective.dtype == torch.float64
    assert len(found) == len(found.scores) == 10
    assert len(found.dropped) == 10 * backward_steps
    assert len(found.objective) == 1 + 10 + 20 * backward_steps
    everything = torch.cat([found.indices, found.dropped])
    assert len(everything.unique()) == len(everything)

    def objective(included: Tensor) -> float:
        return literal_objective(factors, fisher, labeled, included, 0.2)

    # Before anything, after all picks, and after each removal.
    expected = [objective(everything[:0]), objective(everything)]
    for left in range(len(found.dropped) - 1, -1, -1):
        expected.append(
            objective(torch.cat([found.indices, found.dropped[len(found.dropped) - left :]]))
        )
    n_forward = len(everything)
    got = torch.cat([found.objective[:1], found.objective[n_forward:]])
    assert_close(
        got, torch.tensor(expected, dtype=torch.float64), k=factors.n_columns, condition=10
    )
    if not backward_steps:
        assert_close(found.objective[:-1] - found.objective[1:], found.scores, condition=100)
        for at in range(1, 10):
            assert_close(
                found.objective[at],
                torch.tensor(objective(found.indices[:at]), dtype=torch.float64),
                k=factors.n_columns,
                condition=10,
            )


@pytest.mark.parametrize("backward_steps", [0, 1])
@pytest.mark.parametrize("n_labeled", [0, 4])
def test_the_whole_pool(backward_steps: int, n_labeled: int, generator: torch.Generator) -> None:
    factors, fisher, labeled = problem(generator, n=11)
    matrices = (fisher, labeled if n_labeled else None)
    expected, _ = expected_from(factors, 11, *matrices, n_labeled=n_labeled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if backward_steps else "error")
        found = select_batch(
            factors, 11, *matrices, n_labeled=n_labeled, backward_steps=backward_steps
        )
    assert picks(found) == expected
    assert len(found.dropped) == 0


@pytest.mark.parametrize("n_select", [5, 7, 9])
def test_a_pool_too_small_for_backward_steps(n_select: int, generator: torch.Generator) -> None:
    factors, fisher, labeled = problem(generator, n=9)
    options = {"n_labeled": 3, "backward_steps": 1}
    expected, _ = expected_from(factors, n_select, fisher, labeled, **options)
    with pytest.warns(UserWarning, match=rf"picks {2 * n_select} samples.*the pool holds 9"):
        found = fast_select(factors, n_select, fisher, labeled, **options)
    assert found == expected


def test_a_pool_just_large_enough_for_backward_steps(generator: torch.Generator) -> None:
    factors = random_factors(generator, n=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            fast_select(factors, 5, backward_steps=1)
            == expected_from(factors, 5, backward_steps=1)[0]
        )


def test_one_sample(generator: torch.Generator) -> None:
    assert fast_select(random_factors(generator, n=1), 1) == [0]
