"""Rows of every likelihood against the definition of Fisher information in the outputs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fishermask_fast import reference
from fishermask_fast.likelihoods import (
    LIKELIHOODS,
    different_likelihoods,
    likelihood_of,
)

EXTREMES = {
    "ordinary": lambda: torch.randn(20, 3),
    "confident": lambda: 80 * torch.randn(20, 3),
    "certain": lambda: torch.tensor([[1e4, -1e4, 0.0]]),
    "infinite": lambda: torch.tensor([[torch.inf, -torch.inf, 1.0]]),
    "one label": lambda: torch.randn(7, 1),
    "a vector": lambda: torch.randn(7),
    "half": lambda: torch.randn(7, 3).half(),
}


def information(
    outputs: Tensor,  # (o,)
    log_p: Callable[[Tensor, Tensor], Tensor],
    outcomes: list[tuple[Tensor, float]],
) -> Tensor:
    """sum_y w_y grad log p(y) grad log p(y)^T by autograd, over outcomes y and their weights."""
    total = outputs.new_zeros(outputs.numel(), outputs.numel())
    for y, weight in outcomes:
        z = outputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_p(z, y), z)
        total += weight * torch.outer(gradient.flatten(), gradient.flatten())
    return total


def bernoulli_log_p(z: Tensor, y: Tensor) -> Tensor:
    return torch.distributions.Bernoulli(logits=z).log_prob(y).sum()


def bernoulli_outcomes(z: Tensor) -> list[tuple[Tensor, float]]:
    labels = [torch.tensor(y, dtype=z.dtype) for y in itertools.product([0.0, 1.0], repeat=len(z))]
    return [(y, float(bernoulli_log_p(z, y).exp())) for y in labels]


def gaussian_outcomes(z: Tensor) -> list[tuple[Tensor, float]]:
    """Gauss-Hermite nodes, exact for the squares that the information is made of."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    every = itertools.product(range(4), repeat=len(z))
    return [(z + torch.tensor(nodes[list(i)]), float(np.prod(weights[list(i)]))) for i in every]


def poisson_rows(outputs: Tensor) -> Tensor:
    """Counts of log-rates z: the information of Poisson(e^z) in z is e^z."""
    return torch.diag_embed((outputs / 2).exp())


def poisson_outcomes(z: Tensor) -> list[tuple[Tensor, float]]:
    counts = [torch.tensor([float(y)], dtype=z.dtype) for y in range(80)]
    return [(y, float(poisson_log_p(z, y).exp())) for y in counts]


def poisson_log_p(z: Tensor, y: Tensor) -> Tensor:
    return torch.distributions.Poisson(z.exp()).log_prob(y).sum()


def heteroscedastic_rows(outputs: Tensor) -> Tensor:
    """Mean and log variance: the information of N(m, e^s) in (m, s) is diag(e^-s, 1/2)."""
    s = outputs[:, 1]
    return torch.diag_embed(torch.stack([(-s / 2).exp(), torch.full_like(s, 0.5**0.5)], 1))


def heteroscedastic_outcomes(z: Tensor) -> list[tuple[Tensor, float]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    scale = float((z[1] / 2).exp())
    return [
        (z[0] + scale * node, weight)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True)
    ]


DEFINITIONS: dict[str, tuple[Any, int, Any, Any]] = {
    "bernoulli": ("bernoulli", 3, bernoulli_log_p, bernoulli_outcomes),
    "gaussian": (
        "gaussian",
        3,
        lambda z, y: torch.distributions.Normal(z, 1.0).log_prob(y).sum(),
        gaussian_outcomes,
    ),
    "poisson": (poisson_rows, 1, poisson_log_p, poisson_outcomes),
    "heteroscedastic": (
        heteroscedastic_rows,
        2,
        lambda z, y: torch.distributions.Normal(z[0], (z[1] / 2).exp()).log_prob(y),
        heteroscedastic_outcomes,
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_rows_are_of_the_expected_outer_product(name: str) -> None:
    given, width, log_p, outcomes = DEFINITIONS[name]
    outputs = torch.randn(6, width, dtype=torch.float64)
    rows = likelihood_of(given).make_rows(outputs)
    expected = torch.stack([information(z, log_p, outcomes(z)) for z in outputs])
    torch.testing.assert_close(rows.mT @ rows, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("weighting", ["fisher", "none"])
def test_bernoulli_rows_of_extremes(make: Callable[[], Tensor], weighting: str) -> None:
    outputs = make()
    rows = likelihood_of("bernoulli").make_rows(outputs, weighting)
    expected = reference.bernoulli_rows(outputs.double(), weighting)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-15)


def test_small_probabilities_keep_their_digits() -> None:
    rows = likelihood_of("bernoulli").make_rows(torch.tensor([[40.0], [-40.0]]).double())
    torch.testing.assert_close(rows[:, 0, 0], torch.full((2,), -20.0).double().exp())


@pytest.mark.parametrize("weighting", ["fisher", "none"])
def test_a_label_alone_is_a_softmax_of_two_classes(weighting: str) -> None:
    z = torch.randn(9, dtype=torch.float64)
    pair = torch.stack([z, torch.zeros_like(z)], 1)
    one = likelihood_of("bernoulli").make_rows(z, weighting)
    two = likelihood_of("categorical").make_rows(pair, weighting)[:, :, :1]
    torch.testing.assert_close(one.mT @ one, two.mT @ two)


@pytest.mark.parametrize("make", EXTREMES.values(), ids=EXTREMES.keys())
def test_gaussian_rows(make: Callable[[], Tensor]) -> None:
    outputs = make()
    rows = likelihood_of("gaussian").make_rows(outputs)
    torch.testing.assert_close(rows, reference.gaussian_rows(outputs.double()), rtol=0, atol=0)


def dense_rows(outputs: Tensor) -> Tensor:
    """More rows than outputs, none orthogonal to another."""
    z = outputs.flatten(1)
    mix = torch.randn(5, z.shape[1], generator=torch.Generator().manual_seed(3))
    return mix.double() * z[:, None, :].sigmoid()


@pytest.mark.parametrize("given", ["categorical", "bernoulli", dense_rows])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fewer_rows_leave_the_least_out(given: Any, rank: int) -> None:
    outputs = torch.randn(11, 4, dtype=torch.float64)
    likelihood = likelihood_of(given)
    full, rows = likelihood.make_rows(outputs), likelihood.make_rows(outputs, rank=rank)
    assert rows.shape == (11, rank, 4)
    everything = full.mT @ full
    values = torch.linalg.eigvalsh(everything).flip(1)
    left = torch.linalg.eigvalsh(everything - rows.mT @ rows)
    assert left.min() > -1e-14
    torch.testing.assert_close(left.amax(1), values[:, rank].clamp(min=0), rtol=0, atol=1e-13)
    torch.testing.assert_close(left.sum(1), values[:, rank:].sum(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("given", [*LIKELIHOODS, dense_rows])
def test_sampled_rows_are_right_on_average(given: Any) -> None:
    n = 40_000
    outputs = torch.tensor([[0.7, -0.4, 1.5]]).expand(n, 3)
    likelihood = likelihood_of(given)
    uniform = torch.rand(n, likelihood.n_uniform(outputs), dtype=torch.float64)
    rows = likelihood.sampled_rows(outputs, uniform)
    assert rows.shape == (n, 1, 3)
    squares = rows.mT @ rows
    full = likelihood.make_rows(outputs[:1])
    # Five standard errors of each entry's mean.
    allowed = 5 * squares.std(0) / n**0.5
    assert ((squares.mean(0) - (full.mT @ full)[0]).abs() <= allowed + 1e-12).all()
    assert rows[:, 0].unique(dim=0).shape[0] > 2


@pytest.mark.parametrize("given", ["bernoulli", "gaussian"])
def test_draws_at_the_ends_of_the_interval_are_finite(given: str) -> None:
    uniform = torch.tensor([[0.0, 1 - 2.0**-53]], dtype=torch.float64)
    assert likelihood_of(given).sampled_rows(torch.zeros(1, 2), uniform).isfinite().all()


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        *[(g, ("half", None), ValueError, "weighting must be") for g in LIKELIHOODS],
        *[(g, ("fisher", 0), ValueError, "rank must be at least 1") for g in LIKELIHOODS],
        *[(g, ("fisher", 1.0), TypeError, "rank must be an int") for g in LIKELIHOODS],
        ("bernoulli", ("none", 2), ValueError, 'rank is for weighting "fisher" only'),
        ("gaussian", ("none", None), ValueError, '"none".*"gaussian".*infinitely many'),
        ("gaussian", ("fisher", 2), ValueError, 'rank is not for likelihood "gaussian"'),
        (poisson_rows, ("none", None), ValueError, "given as a function"),
        (poisson_rows, ("fisher", True), TypeError, "rank must be an int"),
    ],
)
def test_options_that_cannot_be(
    given: Any, options: tuple[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        likelihood_of(given).check_options(*options)


@pytest.mark.parametrize("given", ["bernoulli", "categorical", dense_rows])
def test_rank_above_the_rows_that_there_are(given: Any) -> None:
    with pytest.raises(ValueError, match="rank must be at most .*; got 6"):
        likelihood_of(given).make_rows(torch.zeros(2, 3), rank=6)


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        ("categorical", (5,), 'two classes.*likelihood="bernoulli".*"gaussian"'),
        ("categorical", (5, 1), "two classes"),
        ("categorical", (5, 7, 3), r"\(N, C\); got \(5, 7, 3\).*likelihood of your own"),
        ("bernoulli", (5, 7, 3), "likelihood 'bernoulli'; got .*of your own"),
        ("bernoulli", (5, 0), "got"),
        ("gaussian", (5, 3, 8, 8), "likelihood 'gaussian'; got .*of your own"),
        (dense_rows, (5, 0), "no numbers"),
    ],
)
def test_outputs_of_another_shape(given: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood_of(given).check_shape(shape)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("Bernoulli", ValueError, "categorical, bernoulli, gaussian or a function.*'Bernoulli'"),
        (None, TypeError, "got NoneType"),
        (3, TypeError, "got int"),
    ],
)
def test_no_likelihood(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        likelihood_of(given)


def centred(outputs: Tensor) -> Tensor:
    return torch.diag_embed(outputs - outputs.mean(0))


BAD_ROWS: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "a list": (lambda z: [1.0], TypeError, "floating-point Tensor.*got list"),
    "integers": (lambda z: torch.ones(4, 2, 3, dtype=torch.int64), TypeError, "torch.int64"),
    "a matrix": (lambda z: z, ValueError, r"\(4, r, 3\) for outputs \(4, 3\); got \(4, 3\)"),
    "other samples": (lambda z: torch.ones(3, 2, 3), ValueError, r"got \(3, 2, 3\)"),
    "other outputs": (lambda z: torch.ones(len(z), 2, 2), ValueError, r"got \(4, 2, 2\)"),
    "no rows": (lambda z: torch.ones(len(z), 0, 3), ValueError, r"got \(4, 0, 3\)"),
    "NaN": (lambda z: torch.diag_embed(z.log()), ValueError, "finite rows; those of 4 of 4"),
    "of the batch": (centred, ValueError, "each sample from its own outputs alone"),
}


@pytest.mark.parametrize(("function", "error", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_functions_that_give_no_rows(function: Any, error: type[Exception], message: str) -> None:
    outputs = -torch.arange(12.0).reshape(4, 3) - 1
    with pytest.raises(error, match=f"likelihood .*{message}"):
        likelihood_of(function).make_rows(outputs)


def scaled(outputs: Tensor, by: float) -> Tensor:
    return by * torch.diag_embed(outputs.sigmoid())


class Scaled:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, outputs: Tensor) -> Tensor:
        return scaled(outputs, self.by)


MAKERS: dict[str, Callable[[float], Any]] = {
    "partial": lambda by: functools.partial(scaled, by=by),
    "object": Scaled,
    "method": lambda by: Scaled(by).__call__,
    "closure": lambda by: lambda z: scaled(z, by),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_function_is_known_by_its_name_and_its_rows(make: Callable[[float], Any]) -> None:
    outputs = [torch.randn(1, 3) for _ in range(4)]
    first = likelihood_of(make(1.0)).identity(outputs)
    # Another object of the same rows, of outputs that another machine has rounded its own way.
    rounded = [z * (1 + 1e-6) for z in outputs]
    assert different_likelihoods(first, likelihood_of(make(1.0)).identity(rounded)) == ""
    assert "0x" not in first
    other = likelihood_of(make(1.001)).identity(outputs)
    assert different_likelihoods(first, other).endswith("gives other rows here")


def test_named_likelihoods_ask_for_no_outputs() -> None:
    def never() -> Any:
        raise AssertionError
        yield

    identities = [likelihood_of(name).identity(never()) for name in LIKELIHOODS]
    assert identities == list(LIKELIHOODS)
    assert different_likelihoods(*identities[:2]) == "categorical there, bernoulli here"
