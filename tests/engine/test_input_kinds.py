"""Kinds of numbers and tensors that are good input to the selection, and odd ones that are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pools import picks, random_factors, random_fisher
from test_inputs import K, N, arguments, fisher

from fishermask_fast import GradientFactors, fast_select, select_batch


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8, torch.tensor])
def test_any_kind_of_integer(whole: Callable[[int], Any]) -> None:
    expected = select_batch(**arguments({"backward_steps": 1}))
    numbers = {"n_select": 4, "n_labeled": 4, "backward_steps": 1, "chunk_size": 5, "block_size": 2}
    found = select_batch(**arguments({name: whole(value) for name, value in numbers.items()}))
    assert picks(found) == picks(expected)


@pytest.mark.parametrize("number", [np.float32, torch.tensor, int])
def test_any_kind_of_lamb(number: Callable[[float], Any]) -> None:
    expected = fast_select(**arguments({"lamb": 2.0}))
    assert fast_select(**arguments({"lamb": number(2.0)})) == expected


def test_zeros_for_no_labeled_samples() -> None:
    # The published code hands zeros in before anything is labeled.
    none = {"labeled_fisher": torch.zeros(K, K), "n_labeled": 0}
    expected = fast_select(**arguments({"labeled_fisher": None, "n_labeled": 0}))
    assert fast_select(**arguments(none)) == expected


def test_rounding_is_not_asymmetry() -> None:
    rounded = fisher().float()
    rounded += 1e-8 * torch.randn(K, K)
    assert fast_select(**arguments({"fisher": rounded})) == fast_select(**arguments({}))


def test_gradients_that_require_grad() -> None:
    factors = random_factors(torch.Generator().manual_seed(1), n=N)
    parts = [
        p.requires_grad_()
        for p in (factors.middle, factors.coupling, factors.hidden)
        if p is not None
    ]
    tracked = GradientFactors(*parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = select_batch(tracked, 5, random_fisher(torch.Generator(), K).requires_grad_())
        dense = select_batch(factors.dense(), 5, random_fisher(torch.Generator(), K))
    assert picks(found) == picks(dense)
    assert not found.scores.requires_grad and not found.objective.requires_grad
    assert all(part.requires_grad and part.grad is None for part in parts)


@pytest.mark.parametrize(
    "gradients",
    [
        torch.randn(4, 2, 3).to_sparse(),
        torch.empty(4, 2, 3, device="meta"),
        torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)]),
    ],
    ids=["sparse", "meta", "nested"],
)
def test_tensors_without_strides_or_numbers(gradients: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="gradients must be a dense tensor of numbers; got"):
        fast_select(gradients, 1)
    with pytest.raises(TypeError, match="fisher must be a dense tensor of numbers; got"):
        fast_select(torch.randn(4, 2, 3), 1, torch.eye(3).to_sparse())


@pytest.mark.parametrize("value", [torch.tensor(True), torch.tensor([2])])
def test_tensors_that_are_no_number(value: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="n_select must be an integer"):
        fast_select(torch.randn(4, 2, 3), value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lamb must be a number"):
        fast_select(torch.randn(4, 2, 3), 1, lamb=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale, lamb", [(1e20, 1.0), (1.0, 1e-300)])
def test_numbers_that_overflow_say_so(scale: float, lamb: float) -> None:
    with pytest.raises(ValueError, match="too large against lamb|too small against"):
        fast_select(scale**8 * torch.randn(6, 2, 3, dtype=torch.float64), 2, lamb=lamb)
    with pytest.raises(ValueError, match="lamb must be a finite number above 0"):
        fast_select(torch.randn(6, 2, 3), 2, lamb=10**400)


def test_a_fisher_matrix_stored_by_columns(generator: torch.Generator) -> None:
    pool = torch.randn(30, 2, 6, generator=generator, dtype=torch.float64)
    fisher = torch.einsum("nrk,nrl->kl", pool, pool) / len(pool)
    by_columns = fisher.T.contiguous().T
    assert fast_select(pool, 4, by_columns) == fast_select(pool, 4, fisher)
