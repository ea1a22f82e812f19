"""What must not change the picks: order, scale, copies, blocks, chunks, forms and dtypes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import HEADS, TIE, picks, random_factors
from torch import Tensor

from fishermask_fast import GradientFactors, save_factors, select_batch

SEEDS = st.integers(0, 2**32)
QUICK = settings(max_examples=40, deadline=None)


def pools(seed: int, head: str, n: int = 30) -> tuple[GradientFactors, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    pool = random_factors(generator, n=n, head=head)
    return pool, pool.fisher(), generator


@QUICK
@given(SEEDS, st.sampled_from(HEADS), st.integers(0, 2), st.sampled_from([1.0, 1e-2, 1e-4]))
def test_the_pools_order(seed: int, head: str, backward_steps: int, lamb: float) -> None:
    pool, fisher, generator = pools(seed, head)
    order = torch.randperm(len(pool), generator=generator)
    options = {"lamb": lamb, "backward_steps": backward_steps}
    found = picks(select_batch(pool, 8, fisher, **options))
    shuffled = picks(select_batch(pool[order], 8, fisher, **options))
    assert [int(order[i]) for i in shuffled] == found


@QUICK
@given(SEEDS, st.sampled_from(HEADS), st.integers(-12, 12))
def test_one_scale_for_all(seed: int, head: str, exponent: int) -> None:
    """V, F and lamb scaled together: M^-1 F is what it was."""
    pool, fisher, _ = pools(seed, head)
    scale = 2.0**exponent

    def scaled(part: Tensor) -> Tensor:
        return part * scale

    times = GradientFactors(
        scaled(pool.middle),
        None if pool.coupling is None else scaled(pool.coupling),
        pool.hidden,
        pool.head_index,
    )
    one = select_batch(pool, 8, fisher, fisher, lamb=0.1, n_labeled=5)
    square = scale**2
    other = select_batch(times, 8, fisher * square, fisher * square, lamb=0.1 * square, n_labeled=5)
    assert picks(one) == picks(other)
    # Powers of two round nothing.
    torch.testing.assert_close(one.objective, other.objective, rtol=1e-12, atol=0)


@QUICK
@given(SEEDS, st.sampled_from(HEADS), st.integers(2, 25), st.sampled_from([1, 3, 8, None]))
def test_copies_are_taken_in_order(
    seed: int, head: str, copies: int, block_size: int | None
) -> None:
    pool, fisher, generator = pools(seed, head, n=5)
    where = torch.arange(5).repeat(copies)[torch.randperm(5 * copies, generator=generator)]
    found = picks(select_batch(pool[where], 10, fisher, lamb=1e-2, block_size=block_size))
    assert len(set(found)) == 10
    for sample in range(5):
        taken = [i for i in found if where[i] == sample]
        assert taken == (where == sample).nonzero().flatten()[: len(taken)].tolist()
    one_by_one = picks(select_batch(pool[where], 10, fisher, lamb=1e-2, block_size=1))
    assert found == one_by_one


@QUICK
@given(
    SEEDS,
    st.sampled_from(HEADS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_blocks_chunks_forms_and_dtypes(
    seed: int, head: str, block_size: int, chunk_size: int, dtype: torch.dtype
) -> None:
    pool, _, _ = pools(seed, head)
    pool = pool.to(dtype=dtype)
    exact = pool.to(dtype=torch.float64)
    fisher = exact.fisher()
    expected = picks(select_batch(exact, 10, fisher, lamb=1e-2, block_size=1))
    with TemporaryDirectory() as folder:
        forms = {
            "as stored": pool,
            "in a file": save_factors(pool, Path(folder) / "factors.safetensors"),
            "dense": GradientFactors(exact.dense()),
        }
        for name, form in forms.items():
            found = select_batch(
                form, 10, fisher, lamb=1e-2, block_size=block_size, chunk_size=chunk_size
            )
            assert picks(found) == expected, name


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_candidates_that_differ_by_a_ten_millionth(k: int, seed: int) -> None:
    """Rows that span all columns: at lamb 1e-7 first scores differ by 1e-7 of themselves alone."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(40, k, k, generator=generator, dtype=torch.float64)
    order = torch.randperm(40, generator=generator)
    fisher = GradientFactors(v).fisher()

    def found(pool: Tensor, block_size: int | None) -> list[int]:
        return picks(
            select_batch(GradientFactors(pool), 8, fisher, lamb=1e-7, block_size=block_size)
        )

    expected = found(v, 1)
    for block_size in (4, 8, 32, None):
        assert found(v, block_size) == expected
    for block_size in (1, 8, None):
        shuffled = [int(order[i]) for i in found(v[order], block_size)]
        assert_the_same_but_for_ties(shuffled, expected, v, fisher)


def assert_the_same_but_for_ties(
    one: list[int], other: list[int], v: Tensor, fisher: Tensor
) -> None:
    """Until two scores differ by less than a tie, after which all may be other samples."""
    m = 1e-7 * torch.eye(v.shape[2], dtype=torch.float64)
    left = float(torch.linalg.solve(m, fisher).trace())
    for a, b in zip(one, other, strict=True):
        after = [float(torch.linalg.solve(m + v[i].T @ v[i], fisher).trace()) for i in (a, b)]
        if a != b:
            assert abs(after[0] - after[1]) <= 1.01 * TIE * (left - min(after))
            return
        m, left = m + v[a].T @ v[a], after[0]
