"""Small inputs for the ops on rows of a weight: its gradient, and its Fisher diagonal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from op_sample import Sample
from torch import Tensor

from fishermask_fast import reference

Conv = tuple[list[int], list[int], list[int], int]  # kernel, stride, dilation, groups


def conv2d_problems() -> Iterator[tuple[str, Tensor, Tensor, Conv]]:
    """(label, padded input, delta, options) over shapes, strides in memory and dtypes."""
    generator = torch.Generator().manual_seed(0)
    cases: list[tuple[str, int, int, int, tuple[int, int], Conv]] = [
        ("3x3", 3, 5, 7, (6, 5), ([3, 3], [1, 1], [1, 1], 1)),
        ("rows as wide as a vector", 2, 2, 20, (5, 32), ([3, 3], [1, 1], [1, 1], 1)),
        ("strided", 2, 4, 9, (4, 3), ([3, 2], [2, 3], [1, 2], 1)),
        ("grouped", 3, 6, 8, (3, 3), ([2, 3], [1, 2], [2, 1], 2)),
        ("depthwise", 2, 6, 6, (4, 4), ([5, 5], [1, 1], [1, 1], 6)),
        ("1x1", 2, 37, 33, (2, 2), ([1, 1], [1, 1], [1, 1], 1)),
        ("one position", 4, 3, 18, (1, 1), ([3, 3], [1, 1], [1, 1], 1)),
        ("no sample", 0, 3, 4, (2, 2), ([3, 3], [1, 1], [1, 1], 1)),
    ]
    for label, n, wide_in, wide_out, place, options in cases:
        kernel, stride, dilation, _ = options
        size = [
            (p - 1) * s + (k - 1) * d + 1
            for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)
        ]
        for dtype in (torch.float64, torch.float32):
            a = torch.randn(n, wide_in, *size, dtype=dtype, generator=generator)
            delta = torch.randn(n, wide_out, *place, dtype=dtype, generator=generator)
            yield f"{label}, {dtype}", a, delta, options
        if label == "3x3":
            last = torch.channels_last
            yield "channels last", a.to(memory_format=last), delta.to(memory_format=last), options
            yield "expanded", a, delta[:, :, :1, :1].expand_as(delta), options
            yield "crossed", a.mT.contiguous().mT, delta.mT.contiguous().mT, options


def linear_problems() -> Iterator[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 7, 9), (2, 1, 4, 3), (2, 40, 33, 17), (0, 2, 3, 4), (2, 0, 3, 4)]
    for n, tokens, wide_in, wide_out in shapes:
        for dtype in (torch.float64, torch.float32):
            a = torch.randn(n, tokens, wide_in, dtype=dtype, generator=generator)
            delta = torch.randn(n, tokens, wide_out, dtype=dtype, generator=generator)
            yield f"{n} x {tokens}, {wide_in} to {wide_out}, {dtype}", a, delta
    yield "crossed", a.mT.contiguous().mT, delta.mT.contiguous().mT


def sparse_indices(size: int) -> Iterator[tuple[str, Tensor]]:
    """Few positions, many, all and none: single products, whole tiles and both."""
    for label, count in (("none", 0), ("few", 3), ("half", size // 2), ("all", size)):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        yield label, order[:count].sort().values


def product_bound(a: Tensor, n_products: int) -> float:
    return 32 * max(n_products, 1) ** 0.5 * torch.finfo(a.dtype).eps


def fisher_diag_conv2d_samples() -> Iterator[Sample]:
    for label, a, delta, options in conv2d_problems():
        expected = reference.conv2d_weight_gradients(a, delta, *options).square().sum(0)
        bound = product_bound(a, delta.numel())
        yield Sample(label, (a, delta, *options), (expected,), {}, bound)


def masked_grad_conv2d_samples() -> Iterator[Sample]:
    for label, a, delta, options in conv2d_problems():
        gradients = reference.conv2d_weight_gradients(a, delta, *options).flatten(1)
        for which, index in sparse_indices(gradients.shape[1]):
            bound = product_bound(a, delta[0, 0].numel() if len(delta) else 1)
            arguments = (a, delta, index, *options)
            yield Sample(f"{label}, {which}", arguments, (gradients[:, index],), {}, bound)


def fisher_diag_linear_samples() -> Iterator[Sample]:
    for label, a, delta in linear_problems():
        expected = reference.linear_weight_gradients(a, delta).square().sum(0)
        yield Sample(label, (a, delta), (expected,), {}, product_bound(a, delta.numel()))


def masked_grad_linear_samples() -> Iterator[Sample]:
    for label, a, delta in linear_problems():
        gradients = reference.linear_weight_gradients(a, delta).flatten(1)
        for which, index in sparse_indices(gradients.shape[1]):
            bound = product_bound(a, a.shape[1])
            yield Sample(f"{label}, {which}", (a, delta, index), (gradients[:, index],), {}, bound)
