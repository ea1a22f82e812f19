"""Factors of a linear head from embeddings and probabilities, against the head's own gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import relative_error, tolerance
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fishermask_fast import (
    FisherMask,
    GradientFactors,
    factors_from_embeddings,
    fast_select,
    masked_gradients,
    reference,
)
from fishermask_fast.likelihoods.categorical import make_rows

N, C, D = 40, 5, 7


@pytest.fixture
def head(generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(D, C).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.fixture
def embeddings(generator: torch.Generator) -> Tensor:
    return torch.randn(N, D, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weighting", ["fisher", "none"])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_gradients_of_a_head(
    weighting: str, bias: bool, head: nn.Linear, embeddings: Tensor
) -> None:
    if not bias:
        head = nn.Linear(D, C, bias=False).double()
    p = head(embeddings).softmax(1)
    found = factors_from_embeddings(embeddings, p, bias=bias, weighting=weighting)
    expected = masked_gradients(head, embeddings, FisherMask.head(head), weighting=weighting)
    assert found.middle.shape == (N, C - (weighting == "fisher"), 0)
    assert found.head_index is None and found.dtype == torch.float64
    assert relative_error(found.dense(), expected.dense()) < tolerance(torch.float64, C)


@pytest.mark.parametrize("bias", [False, True])
def test_mask_keeps_the_largest_of_the_fisher_diagonal(
    bias: bool, head: nn.Linear, embeddings: Tensor
) -> None:
    p = head(embeddings).softmax(1)
    diagonal = reference.fisher_diagonal(head, embeddings)
    scores = diagonal["weight"]
    if bias:
        scores = torch.cat([scores, diagonal["bias"][:, None]], dim=1)
    found = factors_from_embeddings(embeddings, p, mask=11, bias=bias)
    assert found.head_index is not None
    assert found.head_index.tolist() == sorted(scores.flatten().topk(11).indices.tolist())
    whole = factors_from_embeddings(embeddings, p, bias=bias).dense()
    assert torch.equal(found.dense(), whole[:, :, found.head_index])


def test_mask_of_equal_entries_takes_the_lowest_positions() -> None:
    found = factors_from_embeddings(torch.ones(6, 4), torch.full((6, 3), 1 / 3), mask=5)
    assert found.head_index is not None and found.head_index.tolist() == [0, 1, 2, 3, 4]


def test_mask_by_positions(head: nn.Linear, embeddings: Tensor) -> None:
    p = head(embeddings).softmax(1)
    pool = factors_from_embeddings(embeddings[:30], p[:30], mask=9)
    labeled = factors_from_embeddings(embeddings[30:], p[30:], mask=pool.head_index)
    together = GradientFactors.cat([pool, labeled])
    assert len(together) == N and together.n_columns == 9
    assert pool.head_index is not None
    again = factors_from_embeddings(embeddings[:30], p[:30], mask=pool.head_index.numpy())
    assert torch.equal(again.dense(), pool.dense())


def test_mask_of_the_whole_head_is_no_mask(head: nn.Linear, embeddings: Tensor) -> None:
    found = factors_from_embeddings(embeddings, head(embeddings).softmax(1), mask=C * D)
    assert found.head_index is None and found.n_columns == C * D


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_rank(rank: int, head: nn.Linear, embeddings: Tensor) -> None:
    logits = head(embeddings)
    found = factors_from_embeddings(embeddings, logits.softmax(1), rank=rank)
    rows = make_rows(logits, rank=rank)
    expected = (rows[..., None] * embeddings[:, None, None, :]).flatten(2)
    v, w = found.dense(), expected
    # Leading rows are eigenvectors, whose sign and order within equal sizes are free.
    error = relative_error(v.mT @ v, w.mT @ w)
    assert error < tolerance(torch.float64, C, condition=10.0)


@pytest.mark.parametrize("mask", [None, 1, 12])
def test_picks_are_those_of_dense_gradients(
    mask: int | None, head: nn.Linear, embeddings: Tensor
) -> None:
    factors = factors_from_embeddings(embeddings, head(embeddings).softmax(1), mask=mask)
    expected, _ = reference.select(factors.dense(), 12)
    assert fast_select(factors, 12) == expected


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype: torch.dtype, kept: torch.dtype, head: nn.Linear, embeddings: Tensor) -> None:
    p = head(embeddings).softmax(1).to(dtype)
    found = factors_from_embeddings(embeddings.to(dtype), p, mask=9)
    assert found.dtype == kept
    expected = factors_from_embeddings(embeddings.to(dtype).double(), p.double(), mask=9)
    assert found.head_index is not None and expected.head_index is not None
    assert torch.equal(found.head_index, expected.head_index)
    assert relative_error(found.dense(), expected.dense()) < tolerance(kept, C)


def test_arrays_and_inputs_unchanged(head: nn.Linear, embeddings: Tensor) -> None:
    p = head(embeddings).softmax(1)
    arrays = embeddings.numpy()[::-1], p.detach().numpy()[::-1]
    before = [array.copy() for array in arrays]
    found = factors_from_embeddings(*arrays, mask=np.int64(9), rank=np.int32(C - 1))
    expected = factors_from_embeddings(embeddings.flip(0), p.flip(0), mask=9)
    assert torch.equal(found.dense(), expected.dense())
    assert all(np.array_equal(now, then) for now, then in zip(arrays, before, strict=True))
    assert not found.coupling.requires_grad  # type: ignore[union-attr]


def test_probabilities_of_zero_and_one(embeddings: Tensor) -> None:
    p = torch.nn.functional.one_hot(torch.arange(N) % C, C).double()
    p[0] = torch.tensor([0.5, 0.5, 0, 0, 0])
    for rank in (None, C, 2):
        found = factors_from_embeddings(embeddings, p, rank=rank)
        v = found.dense()
        information = (v.mT @ v).view(N, C, D, C, D)
        between = -0.25 * embeddings[0][:, None] * embeddings[0]
        assert relative_error(information[0, 0, :, 1], between) < tolerance(torch.float64, C)
        assert float(information[1:].abs().max()) < tolerance(torch.float64)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor made in its context holds."""

    numbers = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.untyped_storage().nbytes():
                numbers = value.untyped_storage().nbytes() // value.element_size()
                self.numbers = max(self.numbers, numbers)
        return result


def test_never_as_large_as_all_gradients(generator: torch.Generator) -> None:
    n, c, d, r, k = 600, 40, 64, 4, 50
    h = torch.randn(n, d, generator=generator)
    p = torch.randn(n, c, generator=generator).softmax(1)
    with Largest() as largest:
        factors = factors_from_embeddings(h, p, rank=r, mask=k)
    assert largest.numbers <= n * r * c  # n * c * d is sixteen times as many
    assert factors.n_columns == k


def test_fisher_is_never_as_large_as_the_whole_head(generator: torch.Generator) -> None:
    n, c, d, k = 12, 6, 600, 2800
    h = torch.randn(n, d, generator=generator)
    p = torch.randn(n, c, generator=generator).softmax(1)
    factors = factors_from_embeddings(h, p, mask=k)
    with Largest() as largest:
        found = factors.fisher()
    assert largest.numbers <= 2**23  # (c d)^2 is half as many again
    v = factors.dense().double().flatten(0, 1)
    torch.testing.assert_close(found, v.T @ v / n)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a list": ({"embeddings": [[1.0]]}, TypeError, r"embeddings must be a Tensor.*got list"),
    "integers": (
        {"embeddings": torch.ones(4, 3, dtype=torch.int64)},
        TypeError,
        "embeddings must have a floating dtype; got torch.int64",
    ),
    "sparse": (
        {"embeddings": torch.ones(4, 3).to_sparse()},
        TypeError,
        "embeddings must be a dense tensor of numbers; got layout torch.sparse",
    ),
    "tokens": (
        {"embeddings": torch.ones(4, 2, 3)},
        ValueError,
        r"embeddings must have shape \(N, d\); got \(4, 2, 3\)",
    ),
    "NaN": (
        {"embeddings": torch.tensor([[1.0], [1.0], [1.0], [torch.nan]])},
        ValueError,
        "embeddings must be finite; 1 of 4 samples hold NaN or Inf, the first at index 3",
    ),
    "Inf": (
        {"probabilities": torch.tensor([[torch.inf, 1.0]] * 4)},
        ValueError,
        "probabilities must be finite; 4 of 4",
    ),
    "other samples": (
        {"embeddings": torch.ones(3, 3)},
        ValueError,
        "must be of the same samples; got 3 and 4",
    ),
    "no samples": (
        {"embeddings": torch.ones(0, 3), "probabilities": torch.ones(0, 2)},
        ValueError,
        "embeddings hold no samples",
    ),
    "no dimensions": ({"embeddings": torch.ones(4, 0)}, ValueError, "at least one dimension"),
    "one class": ({"probabilities": torch.ones(4, 1)}, ValueError, "two classes or more; got 1"),
    "logits": (
        {"probabilities": torch.tensor([[0.5, 0.5]] * 3 + [[-1.0, 2.0]])},
        ValueError,
        "1 of 4 samples do not, the first at index 3: smallest -1, sum 1",
    ),
    "no sum of 1": ({"probabilities": torch.ones(4, 2)}, ValueError, "index 0: smallest 1, sum 2"),
    "rank of zero": ({"rank": 0}, ValueError, "rank must be at least 1; got 0"),
    "rank above C": ({"rank": 3}, ValueError, "at most the number of classes 2; got 3"),
    "weighting": ({"weighting": "half"}, ValueError, "weighting must be one of fisher, none"),
    "bias": ({"bias": 1}, TypeError, "bias must be a bool; got 1"),
    "mask of zero": ({"mask": 0}, ValueError, "mask must be at least 1; got 0"),
    "mask of a half": ({"mask": 0.5}, TypeError, "mask must be an integer; got 0.5"),
    "mask in a list": ({"mask": [0, 1]}, TypeError, "1-d int64 tensor or array; got list"),
    "mask beyond the head": ({"mask": 7}, ValueError, "at most the head's 6 entries; got 7"),
    "mask of floats": ({"mask": torch.ones(2)}, TypeError, "1-d int64 tensor; got torch.float32"),
    "empty mask": ({"mask": torch.ones(0, dtype=torch.int64)}, ValueError, "at least one position"),
    "unsorted mask": ({"mask": torch.tensor([2, 1])}, ValueError, "within 0..5; got 2 from 1 to 2"),
    "mask outside": ({"mask": np.array([1, 6])}, ValueError, "within 0..5; got 2 from 1 to 6"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {
        "embeddings": torch.ones(4, 3),
        "probabilities": torch.full((4, 2), 0.5),
    }
    with pytest.raises(error, match=message):
        factors_from_embeddings(**(given | change))


def test_a_head_too_large_says_how_large_and_what_helps() -> None:
    h, p = torch.ones(3, 4096), torch.full((3, 1000), 1e-3)
    size = 8 * (4096 * 1000) ** 2 / 2**30
    with pytest.raises(ValueError, match=rf"M and F of 4096000 x 4096000, {size:.1f} GiB each.*"):
        factors_from_embeddings(h, p)
    with pytest.raises(ValueError, match="Give mask=k to keep the k entries with the largest"):
        factors_from_embeddings(h, p)
    with pytest.raises(ValueError, match="Give a smaller mask"):
        factors_from_embeddings(h, p, mask=4_000_000)
    assert factors_from_embeddings(h, p, rank=2, mask=20).n_columns == 20
