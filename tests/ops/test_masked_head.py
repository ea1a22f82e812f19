"""Products by a masked head's entries, against rows of V written out."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import relative_error, tolerance

from fishermask_fast import GradientFactors
from fishermask_fast.factors import masked_head

SHAPES = {
    "one sample": (1, 2, 3, 3, 4),
    "fewer than a step": (7, 3, 5, 7, 11),
    "more than a chunk": (300, 10, 20, 33, 120),
    "one entry": (20, 4, 6, 5, 1),
    "two classes": (40, 2, 2, 60, 70),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_rows_written_out(
    shape: tuple[int, ...], dtype: torch.dtype, instruction_set: str, generator: torch.Generator
) -> None:
    n, r, c, d, k = shape
    coupling = torch.randn(n, r, c, generator=generator).to(dtype)
    hidden = torch.randn(n, d, generator=generator).to(dtype)
    index = torch.randperm(c * d, generator=generator)[:k].sort().values
    factors = GradientFactors(coupling.new_empty(n, r, 0), coupling, hidden, index)
    v = factors.to(dtype=torch.float64).dense()
    total = torch.zeros(k, k, dtype=torch.float64)
    masked_head.add_gram(total, coupling, hidden, index)
    expected = torch.einsum("nrk,nrl->kl", v, v).tril()
    assert relative_error(total.tril(), expected) < tolerance(torch.float64, n * r)

    root = torch.randn(k, k, generator=generator, dtype=torch.float64)
    matrix = root @ root.T
    form = masked_head.quadratic_form(matrix, coupling, hidden, index)
    assert relative_error(form, v @ matrix @ v.mT) < tolerance(torch.float64, k * k)


def test_strided_positions_and_another_default_device(generator: torch.Generator) -> None:
    coupling, hidden = torch.randn(30, 4, 5), torch.randn(30, 40)
    index = torch.randperm(200, generator=generator)[:30].sort().values
    strided = torch.stack([index, index], dim=1)[:, 0]
    middle = coupling.new_empty(30, 4, 0)
    factors = GradientFactors(middle, coupling, hidden, index)
    fisher = factors.fisher()
    (form,) = factors.quadratic_forms(fisher)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("error")
            other = GradientFactors(middle, coupling, hidden, strided)
            assert torch.equal(other.fisher(), fisher)
            assert torch.equal(other.quadratic_forms(fisher)[0], form)
    finally:
        torch.set_warn_always(False)


def test_factors_take_it_where_it_is_cheapest(generator: torch.Generator) -> None:
    coupling, hidden = torch.randn(30, 4, 5), torch.randn(30, 40)
    index = torch.randperm(200, generator=generator)[:30].sort().values
    factors = GradientFactors(coupling.new_empty(30, 4, 0), coupling, hidden, index)
    dense = GradientFactors(factors.dense())
    assert masked_head.suits(factors.middle, coupling, index, 40)
    assert relative_error(factors.fisher(), dense.fisher()) < tolerance(torch.float32, 120)
    matrix = dense.fisher()
    (found,), (expected,) = factors.quadratic_forms(matrix), dense.quadratic_forms(matrix)
    assert relative_error(found, expected) < tolerance(torch.float32, 900)

    assert not masked_head.suits(factors.middle, coupling, None, 40)
    assert not masked_head.suits(factors.middle, None, None, 40)
    assert not masked_head.suits(torch.empty(30, 4, 2), coupling, index, 40)
    # One row of V is as good as its entries.
    assert not masked_head.suits(factors.middle[:, :1], coupling[:, :1], index, 40)
