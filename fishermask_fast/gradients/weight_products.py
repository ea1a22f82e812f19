"""Per-sample weight gradients of convolutions and linear layers: dense, masked, squared.

With the padded input a and the output gradient delta of sample n, positions y and tokens t,

    dW[n,o,i,u] = sum_y delta[n,o,y] a[n,i, y*stride + u*dilation]
    dW[n,o,i]   = sum_t delta[n,t,o] a[n,t,i]

The compiled ops take float32 and float64, on the CPU and on GPUs that they were built for;
everything else is done by products of torch, and so are many masked entries on a GPU, where
products are what it does best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fishermask_fast.ops import has_cuda_ops
from fishermask_fast.ops import weights as weight_ops

_CHUNK_NUMBERS = 2**24
# A product reaches this many times the multiply-adds per second of gathered dot products.
_PRODUCT_GAIN = 16

# Positions in a row from which on dot products along it are faster than tiles of channels, of
# which a depthwise convolution has one.
_WIDE_ROW = 8
# Positions from which on whole gradients of a convolution without a window go by products: there
# are few numbers in them beside what is summed.
_MANY_POSITIONS = 256

Conv2dProblem = tuple[Tensor, Tensor, list[int], list[int], list[int]]


@dataclass(frozen=True)
class Convolution:
    """What a convolution of one to three dimensions does, its padding done already.

    Attributes:
        shape: of the weight, (C_out, C_in / groups, *kernel).
        stride: for each spatial dimension.
        dilation: likewise.
        groups: of input and output channels.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)


def compiled(delta: Tensor) -> bool:
    """Whether the compiled ops take these numbers; elsewhere the same is done by products."""
    if delta.dtype not in (torch.float32, torch.float64):
        return False
    return delta.device.type == "cpu" or (delta.device.type == "cuda" and has_cuda_ops())


def _crowded(index: Tensor, numbers: int) -> bool:
    """Whether products of whole gradients cost less than gathered dot products."""
    return index.numel() * _PRODUCT_GAIN > numbers


def chunks(n: int, numbers: int) -> Iterator[slice]:
    """Slices of the samples so that `numbers` a sample stay within the working memory."""
    size = max(1, _CHUNK_NUMBERS // max(numbers, 1))
    for start in range(0, n, size):
        yield slice(start, start + size)


def pad(a: Tensor, padding: tuple[int, ...]) -> Tensor:
    """The input (N, C, *positions) with zeros around it, `padding` for each spatial dimension."""
    if not any(padding):
        return a
    return F.pad(a, [width for width in reversed(padding) for _ in range(2)])


def _window(conv: Convolution, a: Tensor, delta: Tensor, tap: int) -> Tensor:
    """The padded input that kernel position `tap` meets, of delta's spatial shape (a view)."""
    for axis in reversed(range(len(conv.kernel))):
        tap, place = divmod(tap, conv.kernel[axis])
        start = place * conv.dilation[axis]
        step = conv.stride[axis]
        last = start + step * (delta.shape[2 + axis] - 1)
        a = a[(slice(None),) * (2 + axis) + (slice(start, last + 1, step),)]
    return a


def conv_dense(conv: Convolution, a: Tensor, delta: Tensor) -> Tensor:
    """Whole gradients, (N, *weight)."""
    n, groups = delta.shape[0], conv.groups
    out_width, in_width = conv.shape[0] // groups, conv.shape[1]
    grad = delta.new_empty(n, groups, out_width, in_width, conv.taps)
    positions = math.prod(delta.shape[2:])
    left = delta.reshape(n, groups, out_width, positions)
    for tap in range(conv.taps):
        window = _window(conv, a, delta, tap).reshape(n, groups, in_width, positions)
        grad[..., tap] = left @ window.transpose(2, 3)
    return grad.reshape(n, *conv.shape)


def _as_conv2d(conv: Convolution, a: Tensor, delta: Tensor) -> Conv2dProblem | None:
    """(input, delta, kernel, stride, dilation) for the compiled ops, where they take this one."""
    if len(conv.kernel) == 3 or not compiled(delta):
        return None
    flat = len(conv.kernel) == 1
    pairs = [[1] * flat + list(o) for o in (conv.kernel, conv.stride, conv.dilation)]
    a, delta = (a.unsqueeze(2), delta.unsqueeze(2)) if flat else (a, delta)
    return a, delta, pairs[0], pairs[1], pairs[2]


def conv_masked(conv: Convolution, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    """Gradients at the flat positions index (m,) of the weight, (N, m)."""
    crowded = _crowded(index, math.prod(conv.shape))
    problem = _as_conv2d(conv, a, delta)
    if problem is not None and not (crowded and delta.device.type == "cuda"):
        return weight_ops.masked_grad_conv2d(
            problem[0], problem[1], index, *problem[2:], conv.groups
        )
    if crowded:
        return conv_masked_by_product(conv, a, delta, index)
    return conv_masked_by_dots(conv, a, delta, index)


def conv_masked_by_dots(conv: Convolution, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    in_width = conv.shape[1]
    tap = index % conv.taps
    out_channel = index // (conv.taps * in_width)
    group = out_channel // (conv.shape[0] // conv.groups)
    in_channel = index // conv.taps % in_width + group * in_width
    result = delta.new_empty(delta.shape[0], index.numel())
    for place in torch.unique(tap).tolist():
        here = (tap == place).nonzero().squeeze(1)
        window = _window(conv, a, delta, place)[:, in_channel[here]]
        result[:, here] = (window * delta[:, out_channel[here]]).flatten(2).sum(2)
    return result


def conv_masked_by_product(conv: Convolution, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    result = delta.new_empty(delta.shape[0], index.numel())
    for part in chunks(delta.shape[0], math.prod(conv.shape)):
        result[part] = conv_dense(conv, a[part], delta[part]).flatten(1)[:, index]
    return result


def conv_squared(conv: Convolution, a: Tensor, delta: Tensor) -> Tensor:
    """Squared gradients, summed over the samples, of the weight's shape."""
    problem = _as_conv2d(conv, a, delta)
    if delta.device.type == "cpu" and conv.groups == conv.shape[0] and conv.shape[1] == 1:
        channels_last = a.stride(1) == 1 and a.shape[1] > 1
        if channels_last:
            return _depthwise_squared(conv, a, delta)
        if problem is not None and delta.shape[-1] >= _WIDE_ROW:
            index = torch.arange(math.prod(conv.shape))
            found = weight_ops.masked_grad_conv2d(
                problem[0], problem[1], index, *problem[2:], conv.groups
            )
            return found.square_().sum(0).view(conv.shape)
    positions = math.prod(delta.shape[2:])
    if problem is not None and (conv.taps > 1 or conv.groups > 1 or positions < _MANY_POSITIONS):
        return weight_ops.fisher_diag_conv2d(*problem, conv.groups).view(conv.shape)
    total = delta.new_zeros(conv.shape)
    for part in chunks(delta.shape[0], math.prod(conv.shape)):
        total += conv_dense(conv, a[part], delta[part]).square_().sum(0)
    return total


def _depthwise_squared(conv: Convolution, a: Tensor, delta: Tensor) -> Tensor:
    """The same where each channel is its own group, tap by tap."""
    spatial = list(range(2, delta.ndim))
    taps = [
        (_window(conv, a, delta, tap) * delta).sum(spatial).square_().sum(0)
        for tap in range(conv.taps)
    ]
    return torch.stack(taps, 1).view(conv.shape)


def linear_dense(a: Tensor, delta: Tensor) -> Tensor:
    """Whole gradients (N, out, in) from a (N, T, in) and delta (N, T, out)."""
    return delta.transpose(1, 2) @ a


def linear_masked(a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    """Gradients at the flat positions index (m,) of the weight (out, in), (N, m)."""
    n, tokens, width = a.shape
    numbers = width * delta.shape[2]
    by_product = delta.device.type == "cuda" or not compiled(delta)
    result = delta.new_empty(n, index.numel())
    if tokens > 1 and by_product and _crowded(index, numbers):
        for part in chunks(n, numbers):
            result[part] = linear_dense(a[part], delta[part]).flatten(1)[:, index]
        return result
    if tokens > 1 and compiled(delta):
        return weight_ops.masked_grad_linear(a, delta, index)
    rows, columns = index // width, index % width
    for part in chunks(n, tokens * index.numel()):
        result[part] = (delta[part][:, :, rows] * a[part][:, :, columns]).sum(1)
    return result


def linear_squared(a: Tensor, delta: Tensor) -> Tensor:
    """Squared gradients, summed over the samples, (out, in)."""
    n, tokens, width = a.shape
    if tokens == 1:
        # One token: (delta_o a_i)^2 = delta_o^2 a_i^2, so that one product sums over the samples.
        return delta[:, 0].square().T @ a[:, 0].square()
    if compiled(delta):
        return weight_ops.fisher_diag_linear(a, delta)
    total = delta.new_zeros(delta.shape[2], width)
    for part in chunks(n, total.numel()):
        total += linear_dense(a[part], delta[part]).square_().sum(0)
    return total
