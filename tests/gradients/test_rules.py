"""The layers' rules against autograd, sample by sample, over many shapes."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fishermask_fast.gradients import weight_products
from fishermask_fast.gradients.rules import rule_for

BOUND = 1e-12


def test_tokens_need_not_be_contiguous() -> None:
    module = nn.Embedding(7, 3)
    tokens = torch.arange(20).remainder(7).view(5, 4).T
    rule = rule_for(module, "weight")
    assert rule is not None
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = rule.dense(module, rule.prepare(module, tokens), torch.ones(4, 5, 3))
    finally:
        torch.set_warn_always(False)
    expected = nn.functional.one_hot(tokens, 7).sum(1)[..., None].expand(-1, -1, 3)
    assert torch.equal(found.view(4, 7, 3), expected.float())


def check_rules(module: nn.Module, given_input: Tensor) -> None:
    """Every parameter in all three forms, by the compiled ops and by torch's products."""
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(weight_products, "_compiled", lambda delta: False)
            check_one_way(module, given_input)


def check_one_way(module: nn.Module, given_input: Tensor) -> None:
    module = module.double().eval()
    if given_input.is_floating_point():
        given_input = given_input.double()
    n = given_input.shape[0]
    delta = torch.randn_like(module(given_input))
    for name, parameter in module.named_parameters():
        rule = rule_for(module, name)
        assert rule is not None
        expected = torch.stack(
            [
                torch.autograd.grad(
                    module(given_input[i : i + 1]), parameter, grad_outputs=delta[i : i + 1]
                )[0]
                for i in range(n)
            ]
        )
        a = rule.prepare(module, given_input)
        assert relative_error(rule.dense(module, a, delta), expected) < BOUND
        assert relative_error(rule.squared(module, a, delta), expected.square().sum(0)) < BOUND
        size = parameter.numel()
        for count in {0, 1, min(3, size), size}:
            index = torch.randperm(size)[:count].sort().values
            masked = rule.masked(module, a, delta, index)
            assert masked.shape == (n, count)
            assert relative_error(masked, expected.flatten(1)[:, index]) < BOUND


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    small = st.integers(1, 2)

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(dims))

    kernel, dilation = each(st.integers(1, 3)), each(small)
    padding: tuple[int, ...] | str = draw(
        st.sampled_from([each(st.integers(0, 2)), "same", "valid"])
    )
    stride = (1,) * dims if padding == "same" else each(st.integers(1, 3))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    module = kind(
        groups * draw(small),
        groups * draw(small),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    size = tuple(
        (k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, dilation, strict=True)
    )
    # Reflection and wrapping take no more than the input holds.
    size = tuple(max(s, 5) for s in size)
    check_rules(module, torch.randn(draw(st.integers(1, 3)), module.in_channels, *size))


@pytest.mark.parametrize("between", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("n", [1, 3])
def test_linear(n: int, between: tuple[int, ...]) -> None:
    check_rules(nn.Linear(5, 4), torch.randn(n, *between, 5))


def test_wide_linear_with_few_entries() -> None:
    check_rules(nn.Linear(40, 30), torch.randn(2, 3, 40))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.BatchNorm1d(4), (3, 4)),
        (nn.BatchNorm1d(4), (3, 4, 5)),
        (nn.BatchNorm2d(4, eps=0.1), (2, 4, 3, 5)),
        (nn.BatchNorm3d(2), (2, 2, 3, 2, 2)),
        (nn.GroupNorm(2, 4), (3, 4, 5)),
        (nn.GroupNorm(2, 4), (3, 4)),
        (nn.LayerNorm(6), (3, 6)),
        (nn.LayerNorm(6), (3, 4, 6)),
        (nn.LayerNorm((4, 6), eps=0.1), (3, 2, 4, 6)),
        (nn.LayerNorm((4, 6), bias=False), (3, 4, 6)),
    ],
)
def test_norms(module: nn.Module, shape: tuple[int, ...]) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.running_mean.uniform_(-1, 1)
        module.running_var.uniform_(0.5, 2)
    check_rules(module, torch.randn(shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("shape", [(3,), (3, 7), (2, 3, 4), (1, 1)])
def test_embedding(shape: tuple[int, ...], padding_idx: int | None) -> None:
    check_rules(nn.Embedding(6, 3, padding_idx=padding_idx), torch.randint(0, 6, shape))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(x, weight, bias)


def patched_linear() -> nn.Linear:
    module = nn.Linear(2, 2)
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    "module",
    [
        Doubled(2, 2),
        DoubledConv(2, 2, 1),
        patched_linear(),
        nn.ConvTranspose2d(2, 2, 2),
        nn.Bilinear(2, 2, 2),
        nn.Embedding(4, 2, max_norm=1.0),
        nn.Embedding(4, 2, scale_grad_by_freq=True),
        nn.EmbeddingBag(4, 2),
        nn.PReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_no_rule_where_the_formula_is_another(module: nn.Module) -> None:
    assert rule_for(module, "weight") is None


def test_subclass_with_the_same_forward_has_rules() -> None:
    class Named(nn.Linear):
        pass

    assert rule_for(Named(2, 2), "weight") is not None
    assert rule_for(Named(2, 2, bias=False), "bias") is None
