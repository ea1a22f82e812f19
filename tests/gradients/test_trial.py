"""The trial of two samples in networks where float32's own rounding is far from small.

Sines of a large gain double a difference many times over, so that one sample's gradients in two
batches differ by a thousandth and more without anything being wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_checks import make_plan
from torch import Tensor, nn

from fishermask_fast.gradients import reading, rules, slow_parameters
from fishermask_fast.network import evaluating

WIDTH, DEPTH, GAIN = 40, 10, 4.0


class Chaotic(nn.Module):
    """Sines of linear layers, with something of a test's own in the middle."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda h: h, depth: int = DEPTH):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=GAIN / WIDTH**0.5)
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.head = nn.Linear(WIDTH, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x).sin()
            if i == 1:
                x = self.between(x * self.scale)
        return self.head(x)


def chaotic(between: Callable[[Tensor], Tensor] = lambda h: h) -> tuple[Chaotic, Tensor]:
    torch.manual_seed(5)
    return Chaotic(between), torch.randn(3, WIDTH)


def far_from_alone(model: nn.Module, inputs: Tensor) -> float:
    """How far a sample's gradient of the first layer lies from itself in another batch."""
    first = next(model.parameters())
    weights = torch.linspace(0.5, 1.5, 4)
    (alone,) = torch.autograd.grad(model(inputs[:1]) @ weights, first)
    (together,) = torch.autograd.grad((model(inputs[:2]) @ weights)[:1], first)
    return float((alone - together).abs().max() / alone.abs().max())


def test_rounding_is_told_from_a_wrong_rule() -> None:
    model, inputs = chaotic()
    if far_from_alone(model, inputs) < 1e-3:
        pytest.skip("one and two samples are rounded alike on this machine")
    assert slow_parameters(model, inputs) == ()


def test_one_in_float64_needs_no_such_help() -> None:
    model, inputs = chaotic()
    assert slow_parameters(model.double(), inputs.double()) == ()


@pytest.mark.parametrize("by", [1.001, 0.99, 1.05, 3.0, -1.0])
def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    right = rules._RULES["MulBackward0"]

    def wrong(r: reading.Reading) -> reading.Maker | None:
        make = right(r)
        return None if make is None else lambda delta: make(by * delta)

    monkeypatch.setitem(rules._RULES, "MulBackward0", wrong)
    model, inputs = chaotic()
    assert slow_parameters(model, inputs) == ("scale",)


def by_place(h: Tensor) -> Tensor:
    return h + 0.01 * torch.arange(len(h))[:, None]


def mean_of_all(h: Tensor) -> Tensor:
    return h - 0.02 * h.detach().mean(0)


def from_the_first(h: Tensor) -> Tensor:
    return h + 0.02 * h[0].detach()


def by_number(h: Tensor) -> Tensor:
    return h + (1.0 / len(h) - 1) * (h - h.detach())  # the gradient alone: divided by n


@pytest.mark.parametrize("between", [by_place, mean_of_all, from_the_first, by_number])
def test_samples_that_meet_are_found_out(between: Callable[[Tensor], Tensor]) -> None:
    model, inputs = chaotic(between)
    # Whatever comes before the place where samples meet has other gradients than alone.
    slow = slow_parameters(model, inputs)
    assert {"layers.0.weight", "layers.1.weight", "layers.1.bias", "scale"} <= set(slow)


def test_copies_of_one_sample_tell_nothing() -> None:
    model, inputs = chaotic(mean_of_all)
    assert slow_parameters(model, inputs[:1].repeat(3, 1))


def test_plain_networks_are_tried_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    model = Chaotic(depth=2)
    forward = model.forward

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(x)

    monkeypatch.setattr(model, "forward", counted)
    with evaluating(model) as net:
        make_plan(net, torch.randn(3, WIDTH), ["layers.0.weight", "head.weight"])
    assert calls == 4  # two samples, three, and each of the two alone


class Wide(nn.Module):
    """Three linear layers, the middle one so large that the head may stand in for it."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda h: h) -> None:
        super().__init__()
        self.first = nn.Linear(1100, 90)
        self.large = nn.Linear(90, 12_000, bias=False)
        self.other = nn.Linear(12_000, 100, bias=False)
        self.head = nn.Linear(100, 4, bias=False)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.between(self.first(x).tanh())
        logits: Tensor = self.head(self.other(self.large(hidden).tanh()).tanh())
        return logits


def wide(between: Callable[[Tensor], Tensor] = lambda h: h) -> tuple[Wide, Tensor]:
    torch.manual_seed(6)
    return Wide(between), torch.randn(3, 1100)


WEIGHTS = {"first.weight", "large.weight", "other.weight", "head.weight"}


def test_large_weights_go_by_rule() -> None:
    assert slow_parameters(*wide()) == ()
    model, inputs = wide()
    one_hot = torch.zeros_like(inputs).index_fill_(1, torch.tensor([7]), 1.0)
    one_hot[1] = one_hot[1].roll(3)
    assert slow_parameters(model, one_hot) == ()


def with_changed_delta(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[reading.Reading, Tensor], Tensor]
) -> None:
    right = rules._RULES["MmBackward0"]

    def wrong(r: reading.Reading) -> reading.Maker | None:
        make = right(r)
        return None if make is None else lambda delta: make(change(r, delta))

    monkeypatch.setitem(rules._RULES, "MmBackward0", wrong)


@pytest.mark.parametrize("by", [1.001, 0.9, -1.0])
def test_a_wrong_product_is_found_out(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    with_changed_delta(monkeypatch, lambda r, delta: by * delta)
    assert set(slow_parameters(*wide())) == WEIGHTS - {"first.weight"}


@pytest.mark.parametrize("sample", [0, 1])
def test_one_sample_s_wrong_row_is_found_out(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    def change(r: reading.Reading, delta: Tensor) -> Tensor:
        factor = torch.ones(len(delta), 1)
        if len(delta) > 1:
            factor[sample] = 1.001
        return factor * delta

    with_changed_delta(monkeypatch, change)
    assert set(slow_parameters(*wide())) == WEIGHTS - {"first.weight"}


def test_rows_of_samples_in_each_other_s_places_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_changed_delta(monkeypatch, lambda r, delta: delta.flip(0))
    assert set(slow_parameters(*wide())) == WEIGHTS - {"first.weight"}


@pytest.mark.parametrize("between", [by_place, mean_of_all, from_the_first, by_number])
def test_samples_that_meet_before_a_large_weight_are_found_out(
    between: Callable[[Tensor], Tensor],
) -> None:
    slow = set(slow_parameters(*wide(between)))
    changed = {"first.weight", "first.bias"}  # by_number changes nothing above it
    assert slow >= changed if between is by_number else slow >= changed | {"large.weight"}
