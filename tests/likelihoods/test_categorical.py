"""Rows of the softmax's Fisher factor: L L^T against its closed form, and eigenvectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fishermask_fast.likelihoods.categorical import Categorical, make_rows, sampled_rows

EXTREMES = {
    "ordinary": lambda: torch.randn(20, 7),
    "confident": lambda: 80 * torch.randn(20, 7),
    "certain": lambda: 1e4 * torch.eye(7),
    "ascending": lambda: 300 * torch.arange(7.0).expand(2, 7),
    "descending": lambda: -300 * torch.arange(7.0).expand(2, 7),
    "uniform": lambda: torch.zeros(2, 7),
    "tied": lambda: torch.randint(0, 3, (40, 7)).float(),
    "two classes": lambda: torch.randn(9, 2),
    "many classes": lambda: 3 * torch.randn(5, 150),
}


def information(logits: Tensor) -> Tensor:
    p = logits.double().softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@pytest.mark.parametrize("make", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("fewer", [0, 1])
def test_exact_rows(make: object, fewer: int) -> None:
    logits = make()  # type: ignore[operator]
    n_classes = logits.shape[1]
    rows = make_rows(logits, "fisher", n_classes - fewer)
    assert rows.shape == (len(logits), n_classes - fewer, n_classes)
    torch.testing.assert_close(rows.mT @ rows, information(logits), rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncated_rows_leave_the_least_out(make: object, rank: int) -> None:
    logits = make()  # type: ignore[operator]
    if rank > logits.shape[1] - 2:
        pytest.skip("not a truncation")
    rows = make_rows(logits, "fisher", rank)
    full = information(logits)
    largest = torch.linalg.eigvalsh(full).flip(1).clamp(min=0)
    left = torch.linalg.eigvalsh(full - rows.mT @ rows)
    # What is left is positive, and its norm is the first eigenvalue left out.
    assert left.min() > -1e-14
    torch.testing.assert_close(left.amax(1), largest[:, rank], rtol=0, atol=1e-14)
    gram = rows @ rows.mT
    torch.testing.assert_close(gram, torch.diag_embed(largest[:, :rank]), rtol=0, atol=1e-14)


def test_unweighted_rows_are_gradients_of_log_probabilities() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64)
    expected = torch.stack(
        [torch.func.jacrev(lambda z: z.log_softmax(0))(sample) for sample in logits]
    )
    torch.testing.assert_close(make_rows(logits, "none"), expected)


def test_sampled_rows_are_drawn_from_the_prediction() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(20000, 3)
    uniform = torch.rand(20000, dtype=torch.float64)
    rows = sampled_rows(logits, uniform)
    p = logits[0].double().softmax(0)
    drawn = (rows[:, 0] + p).round().argmax(1)
    shares = drawn.bincount(minlength=3) / 20000
    # Five standard deviations of a binomial share.
    torch.testing.assert_close(shares.double(), p, rtol=0, atol=5 * (0.25 / 20000) ** 0.5)
    mean = (rows.mT @ rows).mean(0)
    torch.testing.assert_close(mean, information(logits[:1])[0], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("weighting", "rank", "error", "message"),
    [
        ("Fisher", None, ValueError, "must be one of fisher, none"),
        ("fisher", 0, ValueError, "at least 1"),
        ("fisher", 2.0, TypeError, "must be an int"),
        ("fisher", True, TypeError, "must be an int"),
        ("none", 3, ValueError, 'rank=3 with weighting "none"'),
    ],
)
def test_bad_choices(weighting: str, rank: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Categorical().check_options(weighting, rank)


def test_rank_above_the_classes() -> None:
    with pytest.raises(ValueError, match="at most the number of classes 4; got 5"):
        make_rows(torch.randn(2, 4), "fisher", 5)
