"""A layer's parameters by rule and by autograd, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import relative_error
from torch import Tensor, nn

from fishermask_fast.gradients import capture, weight_products
from fishermask_fast.gradients.planning import plan_from
from fishermask_fast.gradients.tracing import trace
from fishermask_fast.network import Inputs, evaluating

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
N_CLASSES = 3


class Logits(nn.Module):
    """Logits from all numbers of a layer's output by a fixed random map that is not linear."""

    def __init__(self, layer: nn.Module, n: int, inputs: Tensor) -> None:
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            size = layer(inputs).numel() // n
        self.register_buffer("fixed", torch.randn(size, N_CLASSES, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y.reshape(len(x), -1).sin() @ self.fixed.to(y.dtype)


def make_plan(net: nn.Module, inputs: Inputs, names: Collection[str]) -> capture.Plan:
    """As gradients are planned, of a batch of which two samples are tried."""
    return plan_from(trace(net, inputs, names), net, names)


@contextmanager
def products_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_products, "compiled", lambda delta: False)
        yield


def check_rules(
    layer: nn.Module, inputs: Tensor, slow: tuple[str, ...] = (), dtype: torch.dtype = torch.float64
) -> None:
    """Every parameter in all three forms, by the compiled ops and by torch's products."""
    n = len(inputs)
    layer = layer.to(dtype).eval()
    if inputs.is_floating_point():
        inputs = inputs.to(dtype)
    model = Logits(layer, n, inputs)
    with evaluating(model) as net:
        names = [name for name, _ in net.named_parameters()]
        parameters = dict(net.named_parameters())
        plan = make_plan(net, inputs, names)
        assert plan.others == tuple(f"layer.{name}" for name in slow)
        cotangent = torch.randn(n, 1, N_CLASSES, dtype=dtype)
        expected = _one_by_one(net, inputs, cotangent[:, 0], parameters)
        check_tape(net, inputs, plan, cotangent, expected, BOUNDS[dtype])
        with products_only():
            check_tape(net, inputs, plan, cotangent, expected, BOUNDS[dtype])


def _one_by_one(
    net: nn.Module, inputs: Tensor, cotangent: Tensor, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    flags = {name: p.requires_grad for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)
    rows = [
        torch.autograd.grad(
            net(x[None].clone()), list(parameters.values()), c[None], allow_unused=True
        )
        for x, c in zip(inputs, cotangent, strict=True)
    ]
    for name, p in parameters.items():
        p.requires_grad_(flags[name])
    return {
        name: torch.stack([torch.zeros_like(p) if row[i] is None else row[i] for row in rows])
        for i, (name, p) in enumerate(parameters.items())
    }


def check_tape(
    net: nn.Module,
    inputs: Tensor,
    plan: capture.Plan,
    cotangent: Tensor,
    expected: dict[str, Tensor],
    bound: float,
) -> None:
    tape = capture.forward(net, plan, inputs, cotangent.dtype)
    (deltas,) = capture.backward(tape, cotangent)
    assert set(tape.uses) | set(plan.others) >= set(expected)
    n = len(inputs)
    for name in tape.uses:
        term, wanted = tape.term(name, deltas), expected[name]
        if term is None:
            assert not wanted.any()
            continue
        assert term.n == n
        assert relative_error(term.dense(slice(None)).view(wanted.shape), wanted) < bound
        squared = term.squared().view(wanted.shape[1:])
        assert relative_error(squared, wanted.square().sum(0)) < 2 * bound
        size = wanted[0].numel()
        for count in {0, 1, min(3, size), size}:
            index = torch.randperm(size)[:count].sort().values
            masked = term.masked(index)
            assert masked.shape == (n, count)
            assert relative_error(masked, wanted.reshape(n, -1)[:, index]) < bound


class Applied(nn.Module):
    """A function of the input and of parameters of the shapes given."""

    def __init__(self, how: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.how = how
        self.w = nn.ParameterList([nn.Parameter(torch.rand(shape) + 0.5) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, *self.w)
