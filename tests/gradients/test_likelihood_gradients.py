"""Masked gradients and Fisher diagonals of every likelihood against V_x = R_x J_x by torch.func."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import relative_error
from likelihood_networks import (
    BOUND,
    NETWORKS,
    ROWS,
    N,
    Tagger,
    given,
    make,
    mlp,
    numbers,
    squared_margins,
    token_rows,
    tokens,
)
from networks import expected_columns, some_of_each
from torch import Tensor, nn

from fishermask_fast import FisherMask, FisherMaskSelector, masked_gradients, reference
from fishermask_fast.gradients import fisher_diagonal


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", ROWS)
@pytest.mark.parametrize("batch_size", [3, 7])
def test_masked_gradients(network: str, likelihood: str, batch_size: int) -> None:
    model, inputs = make(network)
    mask = some_of_each(model)
    found = masked_gradients(
        model, inputs, mask, likelihood=given(likelihood), batch_size=batch_size
    )
    expected = reference.likelihood_gradients(model, inputs, ROWS[likelihood])
    dense = found.dense()
    assert dense.dtype == torch.float64
    assert relative_error(dense, expected_columns(expected, mask, None)) < BOUND


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", ROWS)
def test_fisher_diagonal(network: str, likelihood: str) -> None:
    model, inputs = make(network)
    found = fisher_diagonal(model, inputs, likelihood=given(likelihood), batch_size=3)
    expected = reference.likelihood_gradients(model, inputs, ROWS[likelihood])
    for name, values in expected.items():
        assert relative_error(found[name], values.square().sum(1).mean(0)) < BOUND


@pytest.mark.parametrize("network", ["labels", "one output", "squeezed", "text"])
@pytest.mark.parametrize("likelihood", ROWS)
def test_a_head_kept_apart(network: str, likelihood: str) -> None:
    model, inputs = make(network)
    mask = FisherMask.head(model, inputs=inputs)
    found = masked_gradients(model, inputs, mask, likelihood=given(likelihood))
    assert found.coupling is not None or network in ("one output", "squeezed")
    expected = reference.likelihood_gradients(model, inputs, ROWS[likelihood])
    name = mask.head_names[0].rpartition(".")[0]
    assert relative_error(found.dense(), expected_columns(expected, mask, name)) < BOUND


def test_bernoulli_without_weights() -> None:
    model, inputs = make("labels")
    mask = some_of_each(model)
    found = masked_gradients(model, inputs, mask, likelihood="bernoulli", weighting="none")
    rows = functools.partial(reference.bernoulli_rows, weighting="none")
    expected = reference.likelihood_gradients(model, inputs, rows)
    assert relative_error(found.dense(), expected_columns(expected, mask, None)) < BOUND


def test_one_prediction_a_token() -> None:
    model, inputs = Tagger().double().eval(), tokens()
    mask = some_of_each(model)
    found = masked_gradients(model, inputs, mask, likelihood=token_rows, batch_size=4).dense()
    expected = expected_columns(
        reference.likelihood_gradients(model, inputs, token_rows), mask, None
    )
    assert relative_error(found, expected) < BOUND
    # And token by token, as logits of samples of their own.
    information = torch.zeros(N, found.shape[2], found.shape[2], dtype=torch.float64)
    for token in range(inputs.shape[1]):

        class At(nn.Module):
            def __init__(self, place: int) -> None:
                super().__init__()
                self.model, self.place = model, place

            def forward(self, x: Tensor) -> Tensor:
                return self.model(x)[:, self.place]

        alone = At(token)
        same = FisherMask(
            {f"model.{n}": s for n, s in mask.shapes.items()},
            {f"model.{n}": i for n, i in mask.indices.items()},
            mask.method,
            (),
        )
        v = masked_gradients(alone, inputs, same).dense()
        information += v.mT @ v
    assert relative_error(found.mT @ found, information) < BOUND
    # Padding tells nothing.
    padded = found.reshape(N, 6, 3, -1)[3, 2:]
    assert float(padded.abs().max()) == 0.0


def test_the_function_s_rows_by_finite_differences() -> None:
    """KL(p_theta, p_theta+d) = d^T F d / 2 to second order: no derivative of ours is in it."""
    model, inputs = make("one output")

    def poisson_rows(outputs: Tensor) -> Tensor:
        return torch.diag_embed((outputs / 2).exp())

    mask = some_of_each(model, most=3)
    v = masked_gradients(model, inputs, mask, likelihood=poisson_rows).dense()
    parameters = dict(model.named_parameters())
    before = torch.distributions.Poisson(model(inputs).detach().exp())
    column = 0
    step = 1e-4
    for name, index in mask.indices.items():
        for i in index.tolist():
            divergences = []
            for sign in (1, -1):
                flat = parameters[name].data.view(-1)
                kept = flat[i].item()
                flat[i] = kept + sign * step
                after = torch.distributions.Poisson(model(inputs).detach().exp())
                flat[i] = kept
                divergences.append(torch.distributions.kl_divergence(before, after)[:, 0])
            found = sum(divergences) / step**2
            expected = v[:, :, column].square().sum(1)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
            column += 1
    assert column == v.shape[2]


@pytest.mark.parametrize("network", ["labels", "squeezed"])
@pytest.mark.parametrize("likelihood", ROWS)
def test_sampled_diagonals(network: str, likelihood: str) -> None:
    model, _ = make(network)
    inputs = torch.randn(400, 5, dtype=torch.float64)
    options = {"likelihood": given(likelihood), "n_samples": 400}
    one = fisher_diagonal(model, inputs, expectation="sampled", **options)
    other = fisher_diagonal(model, inputs, expectation="sampled", batch_size=33, **options)
    exact = fisher_diagonal(model, inputs, **options)
    for name, values in exact.items():
        assert relative_error(other[name], one[name]) < BOUND
        assert relative_error(one[name].sum(), values.sum()) < 0.3
        assert relative_error(one[name], values) > 1e-6


def closed_form(model: nn.Module, x: Tensor, likelihood: str) -> Tensor:
    """V_x of a linear head's [W b], written out: R_x kron [h_x 1]."""
    h = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    outputs = model(x).detach()
    n_outputs = outputs.shape[1]
    v = torch.zeros(len(x), n_outputs, n_outputs, h.shape[1], dtype=x.dtype)
    for c in range(n_outputs):
        p = outputs[:, c].sigmoid()
        scale = (p * (1 - p)).sqrt() if likelihood == "bernoulli" else torch.ones_like(p)
        v[:, c, c] = scale[:, None] * h
    return v.flatten(2)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("n_labeled", [0, 9])
def test_picks_are_those_of_the_closed_form(
    n_outputs: int, likelihood: str, n_labeled: int
) -> None:
    x = torch.randn(60, 4, dtype=torch.float64)
    model = nn.Linear(4, n_outputs).double()
    v = closed_form(model, x, likelihood)
    pool, labeled = v[n_labeled:], v[:n_labeled]
    every = (v.mT @ v).mean(0)
    picks, _ = reference.select(
        pool,
        12,
        every,
        (labeled.mT @ labeled).mean(0) if n_labeled else None,
        n_labeled=n_labeled,
        backward_steps=1,
    )
    selector = FisherMaskSelector(model, mask="head", likelihood=likelihood, backward_steps=1)
    found = selector.query(x[n_labeled:], 12, x[:n_labeled] if n_labeled else None, progress=False)
    assert found.indices.tolist() == picks


def test_another_sigma_is_another_lambda() -> None:
    x = torch.randn(40, 4, dtype=torch.float64)
    model = nn.Linear(4, 2).double()
    sigma = 0.3

    def rows(outputs: Tensor) -> Tensor:
        return reference.gaussian_rows(outputs, sigma)

    narrow = FisherMaskSelector(model, mask="head", likelihood=rows, lamb=0.5)
    unit = FisherMaskSelector(model, mask="head", likelihood="gaussian", lamb=0.5 * sigma**2)
    first, second = (s.query(x, 15, progress=False).indices.tolist() for s in (narrow, unit))
    assert first == second


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_picks_of_a_network_are_those_of_its_dense_gradients(likelihood: str) -> None:
    """As a new user has it: an MLP, a pool, labeled samples, five lines."""
    model = mlp(3).double().eval()
    pool, labeled = torch.randn(40, 5).double(), torch.randn(10, 5).double()
    selector = FisherMaskSelector(model, likelihood=likelihood, fraction=0.6)
    found = selector.query(pool, 8, labeled, progress=False)
    gradients = [
        expected_columns(
            reference.likelihood_gradients(model, x, ROWS[likelihood]), selector.mask_, "2"
        )
        for x in (pool, labeled)
    ]
    every = torch.cat(gradients)
    picks, _ = reference.select(
        gradients[0],
        8,
        (every.mT @ every).mean(0),
        (gradients[1].mT @ gradients[1]).mean(0),
        n_labeled=10,
    )
    assert found.indices.tolist() == picks


@pytest.mark.parametrize("network", ["labels", "one output", "squeezed"])
def test_the_mask_of_a_query_is_of_its_likelihood(network: str) -> None:
    model, inputs = make(network)
    for likelihood in ROWS:
        selector = FisherMaskSelector(
            model, fraction=0.5, keep_head=False, likelihood=given(likelihood)
        )
        selector.query(inputs, 3, progress=False)
        scores = fisher_diagonal(model, inputs, likelihood=given(likelihood))
        expected = FisherMask.from_scores(scores, 0.5, "global", keep_head=False)
        assert selector.mask_.indices.keys() == expected.indices.keys()
        assert all(torch.equal(i, expected.indices[n]) for n, i in selector.mask_.indices.items())


def scaled(outputs: Tensor, by: float) -> Tensor:
    return by * torch.diag_embed(outputs.sigmoid())


RESUMED: dict[str, tuple[Any, Any, str]] = {
    "named": ("categorical", "bernoulli", r"likelihood \(categorical there, bernoulli here\)"),
    "function after name": (
        "gaussian",
        functools.partial(scaled, by=1.0),
        "gaussian there, .*scaled",
    ),
    "name after function": (
        functools.partial(scaled, by=1.0),
        "gaussian",
        "scaled there, gaussian",
    ),
    "settings": (
        functools.partial(scaled, by=1.0),
        functools.partial(scaled, by=1.01),
        "scaled gives other rows here",
    ),
    "other function": (squared_margins, functools.partial(scaled, by=1.0), "squared_margins there"),
}


class Stopping(torch.utils.data.Dataset[Tensor]):
    """Stops at the second visit of sample 4, the first being the fingerprint's."""

    def __init__(self, inputs: Tensor, never: bool) -> None:
        self.inputs, self.visits = inputs, 2 if never else 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> Tensor:
        self.visits += i == 4
        if i == 4 and self.visits == 2:
            raise KeyboardInterrupt
        return self.inputs[i]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(("there", "here", "message"), RESUMED.values(), ids=RESUMED.keys())
def test_a_file_goes_on_under_its_own_likelihood_alone(
    there: Any, here: Any, message: str, finished: bool, tmp_path: Path
) -> None:
    model, inputs = make("labels")
    mask, path = some_of_each(model), tmp_path / "g.safetensors"

    pool = Stopping(inputs, never=finished)
    run = functools.partial(masked_gradients, model, pool, mask, batch_size=2, out=path)
    if finished:
        run(likelihood=there)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(likelihood=there)
    with pytest.raises(ValueError, match=f"differ in .*{message}"):
        run(likelihood=here)
    whole = run(likelihood=there)
    expected = masked_gradients(model, inputs, mask, batch_size=2, likelihood=there)
    assert torch.equal(whole[:].dense(), expected.dense())
    name = there if isinstance(there, str) else getattr(there, "func", there).__qualname__
    assert whole.metadata["likelihood"].split(" ")[0].endswith(name)


def test_rows_of_unequal_number() -> None:
    model = Tagger().double().eval()

    texts = [[1] * 5, [2] * 4, [3] * 6, [4] * 2]

    def padded(items: list[list[int]]) -> Tensor:
        longest = max(map(len, items))
        return torch.tensor([item + [0] * (longest - len(item)) for item in items])

    data = torch.utils.data.DataLoader(texts, batch_size=2, collate_fn=padded)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many rows; samples 2 to 3 have 18 after 15"):
        masked_gradients(model, data, some_of_each(model), likelihood=token_rows)


@pytest.mark.parametrize("network", ["one output", "squeezed"])
def test_single_outputs_are_no_classes(network: str) -> None:
    model, inputs = make(network)
    for call in (
        lambda: masked_gradients(model, inputs, some_of_each(model)),
        lambda: fisher_diagonal(model, inputs),
        lambda: FisherMaskSelector(model, mask="head").query(inputs, 2, progress=False),
    ):
        with pytest.raises(ValueError, match='two classes.*likelihood="bernoulli".*"gaussian"'):
            call()


def test_outputs_of_other_samples_are_said() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x).sum(0)

    model = Summed().double()
    with pytest.raises(ValueError, match=r"one row a sample; got \(3,\)"):
        masked_gradients(model, numbers(), some_of_each(model), likelihood="gaussian", batch_size=7)


@pytest.mark.parametrize("call", [masked_gradients, fisher_diagonal])
def test_unknown_likelihoods_are_refused_before_any_work(call: Any) -> None:
    model, inputs = make("labels")
    arguments = (some_of_each(model),) if call is masked_gradients else ()
    with pytest.raises(ValueError, match="likelihood must be one of"):
        call(model, inputs, *arguments, likelihood="softmax")
    with pytest.raises(TypeError, match="likelihood must be one of"):
        call(model, inputs, *arguments, likelihood=None)
