"""GradientFactors: the head written out, and every product against the dense one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pools import HEADS, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors
from fishermask_fast.factors import quadratic_forms

# n, r, m, c, d: odd sizes, one row, two classes, fewer rows than classes, packed blocks of hidden
# inputs that end within and at a block.
SHAPES = [
    (1, 1, 1, 2, 1),
    (7, 1, 3, 2, 5),
    (11, 6, 5, 7, 3),
    (5, 10, 13, 10, 16),
    (4, 3, 2, 5, 33),
    (3, 31, 4, 32, 6),
]
HALVES = (torch.float16, torch.bfloat16)


def written_out(factors: GradientFactors) -> Tensor:
    """V_x = [ middle_x | (coupling_x kron hidden_x)[head_index] ], one sample at a time."""
    samples = []
    for i in range(len(factors)):
        parts = [factors.middle[i]]
        if factors.coupling is not None and factors.hidden is not None:
            head = torch.kron(factors.coupling[i], factors.hidden[i][None])
            parts.append(head if factors.head_index is None else head[:, factors.head_index])
        samples.append(torch.cat(parts, 1))
    return torch.stack(samples)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_is_the_kronecker_product(
    head: str, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    factors = random_factors(generator, *shape, head=head)
    dense = factors.dense()
    assert dense.shape == (len(factors), factors.n_rows, factors.n_columns)
    assert torch.equal(dense, written_out(factors))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_dense_ones(
    head: str,
    shape: tuple[int, ...],
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    factors = random_factors(generator, *shape, head=head)
    v = factors.dense()
    n, r, k = v.shape
    fisher = factors.fisher()
    assert torch.equal(fisher, fisher.T)
    assert_close(fisher, torch.einsum("nrk,nrl->kl", v, v) / n, k=n * r)
    first, second = random_fisher(generator, k), random_fisher(generator, k)
    for got, matrix in zip(factors.quadratic_forms(first, second), (first, second), strict=True):
        assert_close(got, v @ matrix @ v.mT, k=k)
        assert_close(got, got.mT, k=k)
    assert_close(factors.times(first).mT, first @ v.mT, k=k)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 100])
def test_chunks_change_rounding_alone(
    head: str, chunk_size: int, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    factors = random_factors(generator, n=13, head=head)
    k = factors.n_columns
    assert_close(factors.fisher(chunk_size), factors.fisher(), k=k)
    matrix = random_fisher(generator, k)
    (whole,) = factors.quadratic_forms(matrix)
    (chunked,) = factors.quadratic_forms(matrix, chunk_size=chunk_size)
    assert_close(chunked, whole, k=k)
    starts, chunks = zip(*factors.chunks(chunk_size), strict=True)
    assert max(len(chunk) for chunk in chunks) <= chunk_size
    assert list(starts) == list(range(0, 13, chunk_size))
    assert torch.equal(GradientFactors.cat(chunks).dense(), factors.dense())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forms_by_products_of_torch(
    head: str,
    shape: tuple[int, ...],
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    factors = random_factors(generator, *shape, head=head)
    v = factors.dense()
    matrices = [random_fisher(generator, v.shape[2]) for _ in range(2)]
    forms = quadratic_forms.WideForms(matrices, factors)
    for got, matrix in zip(forms(factors), matrices, strict=True):
        assert_close(got, v @ matrix @ v.mT, k=v.shape[2])


def test_forms_of_other_matrices_are_refused(generator: torch.Generator) -> None:
    factors = random_factors(generator)
    k = factors.n_columns
    with pytest.raises(TypeError, match="matrices must be float64; got torch.float32"):
        factors.quadratic_forms(torch.eye(k))
    with pytest.raises(ValueError, match=rf"shape \({k}, {k}\); got \({k}, {k + 1}\)"):
        factors.quadratic_forms(torch.zeros(k, k + 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="on meta; expected the factors' cpu"):
        factors.quadratic_forms(torch.zeros(k, k, dtype=torch.float64, device="meta"))


@pytest.mark.parametrize("n_masked", [1, 2, 20])
def test_a_few_entries_of_a_large_head(
    n_masked: int, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    # Few enough that plain columns are the cheaper form.
    index = torch.randperm(8 * 40, generator=generator)[:n_masked].sort().values
    whole = random_factors(generator, n=9, r=2, m=3, c=8, d=40)
    factors = GradientFactors(whole.middle, whole.coupling, whole.hidden, index)
    v = factors.dense()
    k = factors.n_columns
    assert torch.equal(v, written_out(factors))
    assert_close(factors.fisher(), torch.einsum("nrk,nrl->kl", v, v) / 9, k=18)
    matrix = random_fisher(generator, k)
    assert_close(factors.quadratic_forms(matrix)[0], v @ matrix @ v.mT, k=k)
    assert_close(factors.times(matrix).mT, matrix @ v.mT, k=k)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("head", HEADS)
def test_narrow_storage_is_multiplied_in_float64(
    head: str, dtype: torch.dtype, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    factors = random_factors(generator, head=head, dtype=dtype)
    assert factors.dtype == dtype
    wide = factors.to(dtype=torch.float64)
    assert_close(factors.fisher(), wide.fisher())
    matrix = random_fisher(generator, factors.n_columns)
    for got, expected in zip(
        factors.quadratic_forms(matrix), wide.quadratic_forms(matrix), strict=True
    ):
        assert_close(got, expected)
    assert_close(factors.times(matrix).mT, wide.times(matrix).mT)


@pytest.mark.parametrize("head", HEADS)
def test_strided_parts(
    head: str, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    plain = random_factors(generator, head=head)

    def strided(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        other = torch.stack([part, part + 1], dim=-1).transpose(0, -2).contiguous()
        return other.transpose(0, -2)[..., 0]

    middle = strided(plain.middle)
    assert middle is not None
    factors = GradientFactors(
        middle, strided(plain.coupling), strided(plain.hidden), plain.head_index
    )
    assert torch.equal(factors.dense(), plain.dense())
    assert_close(factors.fisher(), plain.fisher())
    matrix = random_fisher(generator, plain.n_columns)
    assert_close(factors.quadratic_forms(matrix)[0], plain.quadratic_forms(matrix)[0])
    assert_close(factors.times(matrix).mT, plain.times(matrix).mT)


@pytest.mark.parametrize("head", HEADS)
def test_indexing(head: str, generator: torch.Generator) -> None:
    factors = random_factors(generator, n=9, head=head)
    dense = factors.dense()
    for index in (slice(2, 7, 2), slice(4, 4), torch.tensor([5, 0, 5]), torch.tensor([-1])):
        assert torch.equal(factors[index].dense(), dense[index])
    assert torch.equal(factors[3].dense(), dense[3:4])
    assert torch.equal(factors[-1].dense(), dense[8:9])
    assert len(factors[:0]) == 0
    for outside in (9, -10):
        with pytest.raises(IndexError, match="of 9"):
            factors[outside]


def test_iteration_ends(generator: torch.Generator) -> None:
    assert [len(sample) for sample in random_factors(generator, n=4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("head", HEADS)
def test_to_and_cat(head: str, generator: torch.Generator) -> None:
    factors = random_factors(generator, n=9, head=head)
    narrow = factors.to(dtype=torch.float32)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow.dense(), written_out(narrow))
    together = GradientFactors.cat([factors[:4], factors[4:4], factors[4:]])
    assert torch.equal(together.dense(), factors.dense())


def test_an_empty_pool_has_shapes_but_no_fisher(generator: torch.Generator) -> None:
    empty = random_factors(generator)[:0]
    assert empty.dense().shape == (0, 3, 17)
    with pytest.raises(ValueError, match="at least one sample; got an empty pool"):
        empty.fisher()


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a list": (
        lambda: GradientFactors([[1.0]]),  # type: ignore[arg-type]
        TypeError,
        r"middle must be a Tensor of shape \(N, r, k\); got list",
    ),
    "flat": (
        lambda: GradientFactors(torch.ones(4, 6)),
        ValueError,
        r"middle must have shape \(N, r, k\); got \(4, 6\)",
    ),
    "integers": (
        lambda: GradientFactors(torch.ones(4, 3, 5, dtype=torch.int32)),
        TypeError,
        "middle must be float16.*got torch.int32",
    ),
    "complex numbers": (
        lambda: GradientFactors(torch.ones(4, 3, 5, dtype=torch.complex64)),
        TypeError,
        "got torch.complex64",
    ),
    "coupling alone": (
        lambda: GradientFactors(torch.ones(4, 3, 5), torch.ones(4, 3, 3)),
        ValueError,
        "coupling and hidden belong together",
    ),
    "hidden alone": (
        lambda: GradientFactors(torch.ones(4, 3, 5), None, torch.ones(4, 3)),
        ValueError,
        "coupling and hidden belong together",
    ),
    "another dtype": (
        lambda: GradientFactors(
            torch.ones(4, 3, 5), torch.ones(4, 3, 3).double(), torch.ones(4, 6)
        ),
        TypeError,
        "coupling is torch.float64; expected middle's torch.float32",
    ),
    "another device": (
        lambda: GradientFactors(
            torch.ones(4, 3, 5), torch.ones(4, 3, 3), torch.ones(4, 6, device="meta")
        ),
        ValueError,
        "hidden is on meta; expected middle's cpu",
    ),
    "another number of samples": (
        lambda: GradientFactors(torch.ones(4, 3, 5), torch.ones(4, 3, 3), torch.ones(3, 6)),
        ValueError,
        "hidden holds 3 samples; expected middle's 4",
    ),
    "another number of rows": (
        lambda: GradientFactors(torch.ones(4, 3, 5), torch.ones(4, 2, 3), torch.ones(4, 6)),
        ValueError,
        "coupling has 2 rows a sample; expected 3",
    ),
    "hidden of three dimensions": (
        lambda: GradientFactors(torch.ones(4, 3, 5), torch.ones(4, 3, 3), torch.ones(4, 6, 1)),
        ValueError,
        r"hidden must have shape \(N, d\); got \(4, 6, 1\)",
    ),
    "an index without a head": (
        lambda: GradientFactors(torch.ones(4, 3, 5), head_index=torch.tensor([0])),
        ValueError,
        "head_index needs coupling and hidden",
    ),
    "an int32 index": (
        lambda: with_index(torch.tensor([0], dtype=torch.int32)),
        TypeError,
        "int64",
    ),
    "an index of two dimensions": (lambda: with_index(torch.tensor([[0]])), TypeError, "1-d"),
    "an unsorted index": (lambda: with_index(torch.tensor([3, 1])), ValueError, "increasing"),
    "an index twice": (lambda: with_index(torch.tensor([3, 3])), ValueError, "increasing"),
    "a negative index": (lambda: with_index(torch.tensor([-1, 3])), ValueError, "0..17"),
    "an index outside the head": (lambda: with_index(torch.tensor([3, 18])), ValueError, "0..17"),
    "an index on another device": (
        lambda: with_index(torch.tensor([0], device="meta")),
        ValueError,
        "head_index is on meta; expected cpu",
    ),
    "nothing to concatenate": (lambda: GradientFactors.cat([]), ValueError, "at least one"),
    "other columns": (
        lambda: GradientFactors.cat([with_index(None), with_index(torch.tensor([0]))]),
        ValueError,
        "same columns",
    ),
    "other places in the head": (
        lambda: GradientFactors.cat([with_index(torch.tensor([1])), with_index(torch.tensor([0]))]),
        ValueError,
        "same columns",
    ),
}


def with_index(index: Tensor | None) -> GradientFactors:
    return GradientFactors(torch.ones(4, 3, 5), torch.ones(4, 3, 3), torch.ones(4, 6), index)


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_together(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("index", [np.int64(3), torch.tensor(3)])
def test_one_sample_by_any_integer(generator: torch.Generator, index: object) -> None:
    factors = GradientFactors(torch.randn(5, 2, 4, generator=generator))
    assert torch.equal(factors[index].dense(), factors[3].dense())  # type: ignore[index]
