"""Masked gradients and the Fisher diagonal: rows, inputs, batches, and bad input."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any

import pytest
import torch
from conftest import relative_error
from networks import SharedWeights, TextClassifier, expected_columns, some_of_each
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    TensorDataset,
)

from fishermask_fast import progress, reference
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.gradients import fallback, passes
from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.masks.mask import FisherMask


def make_model(n_classes: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(27, 6), nn.Tanh(),
        nn.Linear(6, n_classes),
    ).double()  # fmt: skip


def make_inputs(n: int = 7) -> Tensor:
    return torch.randn(n, 1, 5, 5).double()


def information(factors: GradientFactors | Tensor) -> Tensor:
    v = factors if isinstance(factors, Tensor) else factors.dense()
    return v.mT @ v


@pytest.mark.parametrize("weighting", ["fisher", "none"])
def test_weightings(weighting: str) -> None:
    model, inputs = make_model(), make_inputs()
    mask = FisherMask.from_scores(fisher_diagonal(model, inputs), 0.4, model=model)
    expected = reference.per_sample_gradients(model, inputs, weighting)
    rank = 4 if weighting == "fisher" else None
    factors = masked_gradients(model, inputs, mask, weighting=weighting, rank=rank)
    assert relative_error(factors.dense(), expected_columns(expected, mask, "5")) < 1e-12


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_one_row_fewer_is_exact(n_classes: int) -> None:
    model, inputs = make_model(n_classes), make_inputs()
    mask = FisherMask.from_scores(fisher_diagonal(model, inputs), 0.4, model=model)
    full = masked_gradients(model, inputs, mask, rank=n_classes)
    fewer = masked_gradients(model, inputs, mask)
    assert full.n_rows == n_classes and fewer.n_rows == n_classes - 1
    assert relative_error(information(fewer), information(full)) < 1e-12


def test_truncated_rows_miss_little_where_few_classes_matter() -> None:
    model, inputs = make_model(40), make_inputs()
    with torch.no_grad():
        model[5].bias[5:] -= 12.0
    mask = some_of_each(model)
    full = information(masked_gradients(model, inputs, mask))
    errors = [
        relative_error(information(masked_gradients(model, inputs, mask, rank=rank)), full)
        for rank in (1, 2, 4)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-2


def test_cost_is_r_passes_whatever_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_model(1000), make_inputs(3)
    mask, calls = some_of_each(model), []
    real = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    masked_gradients(model, inputs, mask, rank=1)
    monkeypatch.setattr(torch.autograd, "grad", counted)
    masked_gradients(model, inputs, mask, rank=5)
    # Two more find out where samples lie, and two what autograd gives for each of them alone.
    assert len(calls) == 5 + 4


def test_few_entries_of_a_wide_head_are_plain_columns() -> None:
    model, inputs = make_model(300), make_inputs(3)
    mask = some_of_each(model)
    head_names = ("5.weight", "5.bias")
    few = {name: index[:3] for name, index in mask.indices.items()}
    plain = FisherMask(mask.shapes, few, "test", head_names)
    factors = masked_gradients(model, inputs, plain, rank=8)
    assert factors.coupling is None
    indices = mask.indices | {"5.weight": torch.arange(0, 1800, 3)}
    many = FisherMask(mask.shapes, indices, "test", head_names)
    factors = masked_gradients(model, inputs, many, rank=8)
    assert factors.coupling is not None and factors.head_index is not None
    apart = FisherMask(mask.shapes, indices, "test", ())
    assert (
        relative_error(
            information(factors).diagonal(dim1=1, dim2=2).sum(1),
            information(masked_gradients(model, inputs, apart, rank=8))
            .diagonal(dim1=1, dim2=2)
            .sum(1),
        )
        < 1e-12
    )


@pytest.mark.parametrize("masked", ["weight", "bias", "both"])
def test_part_of_a_head(masked: str) -> None:
    model, inputs = make_model(), make_inputs()
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    indices = {"0.weight": torch.tensor([1, 5])}
    if masked != "bias":
        indices["5.weight"] = torch.arange(0, 24, 2)
    if masked != "weight":
        indices["5.bias"] = torch.tensor([0, 2, 3])
    mask = FisherMask(shapes, indices, "test", ("5.weight", "5.bias"))
    factors = masked_gradients(model, inputs, mask, rank=4)
    expected = reference.per_sample_gradients(model, inputs)
    head = None if factors.coupling is None else "5"
    assert (head is None) == (masked == "bias")
    assert relative_error(factors.dense(), expected_columns(expected, mask, head)) < 1e-12


def test_head_alone_needs_no_backward_below_it() -> None:
    model, inputs = make_model(), make_inputs()
    mask = FisherMask.head(model)
    factors = masked_gradients(model, inputs, mask, rank=4)
    assert factors.middle.shape == (7, 4, 0) and factors.head_index is None
    expected = expected_columns(reference.per_sample_gradients(model, inputs), mask, "5")
    assert relative_error(factors.dense(), expected) < 1e-12


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(batch_size: int) -> None:
    model, inputs = make_model(), make_inputs()
    mask = some_of_each(model)
    whole = masked_gradients(model, inputs, mask).dense()
    parts = masked_gradients(model, inputs, mask, batch_size=batch_size).dense()
    assert relative_error(parts, whole) < 1e-13
    diagonal = fisher_diagonal(model, inputs, batch_size=batch_size)
    for name, values in fisher_diagonal(model, inputs).items():
        assert relative_error(diagonal[name], values) < 1e-13


def test_one_sample() -> None:
    model, inputs = make_model(), make_inputs(1)
    mask = some_of_each(model)
    expected = expected_columns(reference.per_sample_gradients(model, inputs), mask, None)
    assert relative_error(masked_gradients(model, inputs, mask, rank=4).dense(), expected) < 1e-12


def test_some_indices_continue_an_interrupted_run() -> None:
    model, inputs = make_model(), make_inputs()
    mask = FisherMask.from_scores(fisher_diagonal(model, inputs), 0.4, model=model)
    whole = masked_gradients(model, inputs, mask)
    first = masked_gradients(model, inputs, mask, indices=range(4))
    rest = masked_gradients(model, TensorDataset(inputs), mask, indices=range(4, 7))
    joined = GradientFactors.cat([first, rest])
    assert relative_error(joined.dense(), whole.dense()) < 1e-13


@pytest.mark.parametrize("workers", [0, 2])
def test_ways_to_give_data(workers: int) -> None:
    model, inputs = make_model(), make_inputs()
    mask = some_of_each(model)
    expected = masked_gradients(model, inputs, mask).dense()
    dataset = TensorDataset(inputs, torch.arange(7))
    before = torch.get_rng_state()
    for data in (
        dataset,
        DataLoader(dataset, batch_size=3, num_workers=workers),
        DataLoader(dataset, batch_size=3, num_workers=workers, shuffle=True, drop_last=True),
    ):
        assert relative_error(masked_gradients(model, data, mask).dense(), expected) < 1e-13
    assert torch.equal(before, torch.get_rng_state())


def test_integer_images_and_tokens() -> None:
    model = make_model()
    images = torch.randint(0, 256, (3, 1, 5, 5), dtype=torch.uint8)
    mask = some_of_each(model)
    found = masked_gradients(model, images, mask).dense()
    assert torch.equal(found, masked_gradients(model, images.double(), mask).dense())
    text = TextClassifier()
    assert masked_gradients(text, torch.randint(0, 30, (3, 4)), some_of_each(text)).n_columns > 0


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_only_when_asked(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bar on a terminal, lines elsewhere: the first after a minute, here after nothing."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    model, inputs = make_model(), make_inputs()
    mask = some_of_each(model)
    masked_gradients(model, inputs, mask)
    assert capsys.readouterr() == ("", "")
    masked_gradients(model, inputs, mask, progress=True, batch_size=2)
    out, err = capsys.readouterr()
    assert out == ""
    if terminal:
        assert "0/7" in err and "\n" not in err
    else:
        lines = err.splitlines()
        assert [line.partition(" after ")[0] for line in lines] == [
            f"gradients: {n} of 7 samples" for n in (2, 4, 6, 7)
        ]
        assert lines[-1].endswith(" s, about 0 s left")
    monkeypatch.setattr(progress, "EVERY", 60.0)
    masked_gradients(model, inputs, mask, progress=not terminal, batch_size=2)
    assert capsys.readouterr() == ("", "")


def test_fisher_diagonal_against_its_definition() -> None:
    model, inputs = make_model(), make_inputs()
    expected = reference.fisher_diagonal(model, inputs)
    for name, values in fisher_diagonal(model, inputs).items():
        assert relative_error(values, expected[name]) < 1e-12


def test_fisher_diagonal_draws_its_samples_by_seed() -> None:
    model, inputs = make_model(), make_inputs(40)
    first = fisher_diagonal(model, inputs, n_samples=10, seed=1)
    again = fisher_diagonal(model, TensorDataset(inputs), n_samples=10, seed=1, batch_size=3)
    other = fisher_diagonal(model, inputs, n_samples=10, seed=2)
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:10]
    expected = reference.fisher_diagonal(model, inputs[drawn])
    for name, values in first.items():
        assert relative_error(values, again[name]) < 1e-13
        assert relative_error(values, expected[name]) < 1e-12
        assert relative_error(other[name], values) > 1e-3


def test_sampled_diagonal_approaches_the_exact_one() -> None:
    model, inputs = make_model(), make_inputs(1).expand(4000, -1, -1, -1)
    exact = fisher_diagonal(model, inputs[:1])
    sampled = fisher_diagonal(model, inputs, n_samples=4000, expectation="sampled", batch_size=500)
    for name, values in exact.items():
        # The mean of 4000 draws; each is at most a few times its expectation.
        assert relative_error(sampled[name], values) < 0.15
    again = fisher_diagonal(model, inputs, n_samples=4000, expectation="sampled", batch_size=900)
    assert all(relative_error(again[n], v) < 1e-12 for n, v in sampled.items())


@pytest.mark.parametrize("numbers", [1, 60, 10**6])
def test_slow_way_in_pieces(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = SharedWeights().double(), torch.randn(5, 5).double()
    monkeypatch.setattr(fallback, "_CHUNK_NUMBERS", numbers)
    mask = some_of_each(model)
    expected = reference.per_sample_gradients(model, inputs)
    rank = next(iter(expected.values())).shape[1]
    factors = masked_gradients(model, inputs, mask, rank=rank)
    assert relative_error(factors.dense(), expected_columns(expected, mask, None)) < 1e-12
    for name, values in fisher_diagonal(model, inputs).items():
        assert relative_error(values, expected[name].square().sum(1).mean(0)) < 1e-12


def test_slow_way_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.fc = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x**self.scale if float(x.sum()) > 0 else (-x) ** self.scale)

    model, inputs = Branching().double(), torch.rand(3, 2).double()
    mask = some_of_each(model)
    with caplog.at_level(logging.INFO, "fishermask_fast"):
        factors = masked_gradients(model, inputs, mask, rank=3)
    assert "cannot take these samples together" in caplog.text
    expected = expected_columns(reference.per_sample_gradients(model, inputs), mask, None)
    assert relative_error(factors.dense(), expected) < 1e-12


def test_batches_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_model(), make_inputs(9)
    mask, sizes = some_of_each(model), []
    monkeypatch.setattr(passes, "_CHANNELS_LAST", math.inf)  # which takes trials of its own
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    masked_gradients(model, inputs, mask)
    trials = len(sizes) - 1
    assert sizes[-1] == 9 and max(sizes[:-1]) == 3
    # Of each sample: its image, 27 + 27 + 6 + 6 numbers on the way and as many gradients.
    for numbers, expected in ((1000, range(3, 9)), (1, range(1, 2))):
        monkeypatch.setitem(passes._BUDGET, "cpu", (8 * numbers, 256))
        sizes.clear()
        masked_gradients(model, inputs, mask)
        assert sizes[trials] in expected and sum(sizes[trials:]) == 9
    sizes.clear()
    masked_gradients(model, DataLoader(TensorDataset(inputs), batch_size=4), mask)
    assert sizes[trials:] == [4, 4, 1]
