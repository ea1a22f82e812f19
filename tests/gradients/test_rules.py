"""The rules of torch's own layers against autograd, sample by sample, over many shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_checks import check_rules
from torch import nn


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


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    stride, dilation, kernel = each(1, 3), each(1, 2), each(1, 3)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    module = kind(
        2 * groups, 3 * groups, kernel, stride, each(0, 1), extra, groups, dilation=dilation
    )
    check_rules(module, torch.randn(draw(st.integers(1, 3)), 2 * groups, *each(3, 4)))


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
        (nn.RMSNorm(6), (3, 4, 6)),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (3, 4, 5)),
        (nn.PReLU(), (3, 4)),
        (nn.PReLU(4), (3, 4, 5)),
    ],
)
def test_norms_and_slopes(module: nn.Module, shape: tuple[int, ...]) -> None:
    if getattr(module, "running_mean", None) is not None:
        module.running_mean.uniform_(-1, 1)
        module.running_var.uniform_(0.5, 2)
    # An instance norm's parameters are repeated for each sample, and so consumed by Repeat.
    check_rules(module, torch.randn(shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("shape", [(3,), (3, 7), (2, 3, 4), (1, 1)])
def test_embedding(shape: tuple[int, ...], padding_idx: int | None) -> None:
    check_rules(nn.Embedding(6, 3, padding_idx=padding_idx), torch.randint(0, 6, shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bag(mode: str, padding_idx: int | None) -> None:
    bag = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx)
    check_rules(bag, torch.randint(0, 6, (4, 7)))
