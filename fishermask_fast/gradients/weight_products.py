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
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishermask_fast.network import CONVOLUTIONS
from fishermask_fast.ops import has_cuda_ops
from fishermask_fast.ops import weights as weight_ops

_CHUNK_NUMBERS = 2**24
# A product reaches this many times the multiply-adds per second of gathered dot products.
_PRODUCT_GAIN = 16

Conv2dProblem = tuple[Tensor, Tensor, list[int], list[int], list[int]]


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _compiled(delta: Tensor) -> bool:
    """Whether the compiled ops take these numbers; elsewhere the same is done by products."""
    if delta.dtype not in (torch.float32, torch.float64):
        return False
    return delta.device.type == "cpu" or (delta.device.type == "cuda" and has_cuda_ops())


def _crowded(index: Tensor, weight: Tensor) -> bool:
    """Whether products of whole gradients cost less than gathered dot products."""
    return index.numel() * _PRODUCT_GAIN > weight.numel()


def chunks(n: int, numbers: int) -> Iterator[slice]:
    """Slices of the samples so that `numbers` a sample stay within the working memory."""
    size = max(1, _CHUNK_NUMBERS // max(numbers, 1))
    for start in range(0, n, size):
        yield slice(start, start + size)


def _from_dense(
    dense: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> tuple[
    Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    Callable[[nn.Module, Tensor, Tensor], Tensor],
]:
    """The masked and squared forms by way of whole gradients, a few samples at a time."""

    def masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
        size = weight_of(module).numel()
        parts = [
            dense(module, a[chunk], delta[chunk]).flatten(1)[:, index]
            for chunk in chunks(delta.shape[0], size)
        ]
        return torch.cat(parts) if parts else delta.new_zeros(0, index.numel())

    def squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
        weight = weight_of(module)
        total = delta.new_zeros(weight.shape)
        for chunk in chunks(delta.shape[0], weight.numel()):
            total += dense(module, a[chunk], delta[chunk]).square_().sum(0)
        return total

    return masked, squared


def _conv_pads(module: nn.Module) -> list[int]:
    """Padding as F.pad takes it: last dimension first, before and after."""
    assert isinstance(module, CONVOLUTIONS)
    pads: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            pads += [total // 2, total - total // 2]
        elif module.padding == "valid":
            pads += [0, 0]
        else:
            pads += [int(module.padding[axis])] * 2
    return pads


def conv_prepare(module: nn.Module, a: Tensor) -> Tensor:
    assert isinstance(module, CONVOLUTIONS)
    pads = _conv_pads(module)
    if not any(pads):
        return a
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(a, pads, mode=mode)


def _conv_taps(module: nn.Module) -> int:
    assert isinstance(module, CONVOLUTIONS)
    return math.prod(module.kernel_size)


def _conv_window(module: nn.Module, a: Tensor, delta: Tensor, tap: int) -> Tensor:
    """The padded input that kernel position `tap` meets, of delta's spatial shape (a view)."""
    assert isinstance(module, CONVOLUTIONS)
    for axis in reversed(range(len(module.kernel_size))):
        tap, place = divmod(tap, module.kernel_size[axis])
        start = place * module.dilation[axis]
        step = module.stride[axis]
        last = start + step * (delta.shape[2 + axis] - 1)
        a = a[(slice(None),) * (2 + axis) + (slice(start, last + 1, step),)]
    return a


def conv_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(module, CONVOLUTIONS)
    weight = weight_of(module)
    n, groups, taps = delta.shape[0], module.groups, _conv_taps(module)
    out_width, in_width = weight.shape[0] // groups, weight.shape[1]
    grad = delta.new_empty(n, groups, out_width, in_width, taps)
    positions = math.prod(delta.shape[2:])
    left = delta.reshape(n, groups, out_width, positions)
    for tap in range(taps):
        window = _conv_window(module, a, delta, tap).reshape(n, groups, in_width, positions)
        grad[..., tap] = left @ window.transpose(2, 3)
    return grad.reshape(n, *weight.shape)


def _as_conv2d(module: nn.Module, a: Tensor, delta: Tensor) -> Conv2dProblem | None:
    """(input, delta, kernel, stride, dilation) for the compiled ops, where they take this one."""
    assert isinstance(module, CONVOLUTIONS)
    if isinstance(module, nn.Conv3d) or not _compiled(delta):
        return None
    flat = isinstance(module, nn.Conv1d)
    pairs = [[1] * flat + list(o) for o in (module.kernel_size, module.stride, module.dilation)]
    a, delta = (a.unsqueeze(2), delta.unsqueeze(2)) if flat else (a, delta)
    return a, delta, pairs[0], pairs[1], pairs[2]


def conv_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    assert isinstance(module, CONVOLUTIONS)
    crowded = _crowded(index, weight_of(module))
    problem = _as_conv2d(module, a, delta)
    if problem is not None and not (crowded and delta.device.type == "cuda"):
        return weight_ops.masked_grad_conv2d(
            problem[0], problem[1], index, *problem[2:], module.groups
        )
    if crowded:
        return conv_masked_by_product(module, a, delta, index)
    return conv_masked_by_dots(module, a, delta, index)


def conv_masked_by_dots(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    assert isinstance(module, CONVOLUTIONS)
    weight = weight_of(module)
    taps, in_width = _conv_taps(module), weight.shape[1]
    tap = index % taps
    out_channel = index // (taps * in_width)
    group = out_channel // (weight.shape[0] // module.groups)
    in_channel = index // taps % in_width + group * in_width
    result = delta.new_empty(delta.shape[0], index.numel())
    for place in torch.unique(tap).tolist():
        here = (tap == place).nonzero().squeeze(1)
        window = _conv_window(module, a, delta, place)[:, in_channel[here]]
        result[:, here] = (window * delta[:, out_channel[here]]).flatten(2).sum(2)
    return result


conv_masked_by_product, _conv_squared_by_product = _from_dense(conv_dense)


def conv_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(module, CONVOLUTIONS)
    problem = _as_conv2d(module, a, delta)
    if problem is not None:
        return weight_ops.fisher_diag_conv2d(*problem, module.groups).view(weight_of(module).shape)
    return _conv_squared_by_product(module, a, delta)


def linear_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    n = delta.shape[0]
    left = delta.reshape(n, -1, delta.shape[-1])
    return left.transpose(1, 2) @ a.reshape(n, -1, a.shape[-1])


def linear_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    weight = weight_of(module)
    n, tokens = delta.shape[0], math.prod(delta.shape[1:-1])
    by_product = delta.device.type == "cuda" or not _compiled(delta)
    if tokens > 1 and by_product and _crowded(index, weight):
        return _linear_masked_by_product(module, a, delta, index)
    left = delta.reshape(n, tokens, delta.shape[-1])
    right = a.reshape(n, tokens, a.shape[-1])
    if tokens > 1 and _compiled(delta):
        return weight_ops.masked_grad_linear(right, left, index)
    result = delta.new_empty(n, index.numel())
    rows, columns = index // weight.shape[1], index % weight.shape[1]
    for chunk in chunks(n, tokens * index.numel()):
        result[chunk] = (left[chunk][:, :, rows] * right[chunk][:, :, columns]).sum(1)
    return result


def linear_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    if math.prod(delta.shape[1:-1]) == 1:
        n = delta.shape[0]
        # One token: (delta_o a_i)^2 = delta_o^2 a_i^2, so that one product sums over the samples.
        return delta.reshape(n, -1).square().T @ a.reshape(n, -1).square()
    if _compiled(delta):
        tokens = (delta.shape[0], math.prod(delta.shape[1:-1]))
        left, right = delta.reshape(*tokens, delta.shape[-1]), a.reshape(*tokens, a.shape[-1])
        return weight_ops.fisher_diag_linear(right, left)
    return _linear_squared_by_product(module, a, delta)


_linear_masked_by_product, _linear_squared_by_product = _from_dense(linear_dense)
