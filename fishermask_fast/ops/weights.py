"""The compiled ops of a weight's gradients: one typed wrapper and one fake kernel for each.

What each op computes is defined in ``reference``; importing this module loads them (``loading``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fishermask_fast.ops import loading  # noqa: F401  registers the ops


def fisher_diag_conv2d(
    input: Tensor,  # (N, C_in, H, W)
    delta: Tensor,  # (N, C_out, Y, X)
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Squared weight gradients of a convolution, summed over the samples.

    Args:
        input: padded already; float32 or float64, any strides.
        delta: output gradient, of the same dtype; any strides.
        kernel: (kh, kw).
        stride: vertical and horizontal.
        dilation: likewise.
        groups: of input and output channels.

    Returns:
        (C_out, C_in / groups, kh, kw).

    Raises:
        TypeError: a dtype other than stated.
        ValueError: shapes that do not fit together.
    """
    _check_conv2d(input, delta, kernel, stride, dilation, groups)
    result: Tensor = torch.ops.fishermask_fast.fisher_diag_conv2d(
        input, delta, list(kernel), list(stride), list(dilation), groups
    )
    return result


def fisher_diag_linear(
    input: Tensor,  # (N, T, C_in)
    delta: Tensor,  # (N, T, C_out)
) -> Tensor:
    """Squared weight gradients of a linear layer on T tokens, summed over the samples.

    Returns:
        (C_out, C_in).

    Raises:
        TypeError: dtypes that are not both float32 or both float64.
        ValueError: shapes that do not fit together.
    """
    _check_linear(input, delta)
    result: Tensor = torch.ops.fishermask_fast.fisher_diag_linear(input, delta)
    return result


def masked_grad_conv2d(
    input: Tensor,  # (N, C_in, H, W)
    delta: Tensor,  # (N, C_out, Y, X)
    index: Tensor,  # (m,) int64
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Per-sample gradients of some entries of a convolution's weight.

    Args:
        input: padded already; float32 or float64, any strides.
        delta: output gradient, of the same dtype; any strides.
        index: flat positions in the weight (C_out, C_in / groups, kh, kw).
        kernel: (kh, kw).
        stride: vertical and horizontal.
        dilation: likewise.
        groups: of input and output channels.

    Returns:
        (N, m).

    Raises:
        TypeError: a dtype other than stated.
        ValueError: shapes that do not fit together, or positions outside the weight.
    """
    _check_conv2d(input, delta, kernel, stride, dilation, groups)
    _check_index(index, delta.shape[1] * input.shape[1] // groups * kernel[0] * kernel[1])
    result: Tensor = torch.ops.fishermask_fast.masked_grad_conv2d(
        input, delta, index.contiguous(), list(kernel), list(stride), list(dilation), groups
    )
    return result


def masked_grad_linear(
    input: Tensor,  # (N, T, C_in)
    delta: Tensor,  # (N, T, C_out)
    index: Tensor,  # (m,) int64
) -> Tensor:
    """Per-sample gradients of some entries of a linear layer's weight, T tokens a sample.

    Returns:
        (N, m) at the flat positions `index` of the weight (C_out, C_in).

    Raises:
        TypeError: dtypes that are not both float32 or both float64; index not int64.
        ValueError: shapes that do not fit together, or positions outside the weight.
    """
    _check_linear(input, delta)
    _check_index(index, delta.shape[2] * input.shape[2])
    result: Tensor = torch.ops.fishermask_fast.masked_grad_linear(input, delta, index.contiguous())
    return result


def _check_pair(input: Tensor, delta: Tensor, ndim: int, shapes: str) -> None:
    if input.dtype != delta.dtype or input.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            "input and delta must both be float32 or both float64; "
            f"got {input.dtype} and {delta.dtype}"
        )
    if input.ndim != ndim or delta.ndim != ndim or input.shape[0] != delta.shape[0]:
        raise ValueError(
            f"input and delta must have shapes {shapes}; "
            f"got {tuple(input.shape)} and {tuple(delta.shape)}"
        )


def _check_linear(input: Tensor, delta: Tensor) -> None:
    _check_pair(input, delta, 3, "(N, T, C_in) and (N, T, C_out)")
    if input.shape[1] != delta.shape[1]:
        raise ValueError(
            f"input and delta must have the same tokens; got {input.shape[1]} and {delta.shape[1]}"
        )


def _check_conv2d(
    input: Tensor,
    delta: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    _check_pair(input, delta, 4, "(N, C_in, H, W) and (N, C_out, Y, X)")
    for name, pair in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{name} must be two positive numbers; got {list(pair)}")
    if groups < 1 or input.shape[1] % groups or delta.shape[1] % groups:
        raise ValueError(
            f"groups must divide the channels {input.shape[1]} and {delta.shape[1]}; got {groups}"
        )
    for axis in range(2):
        reach = (delta.shape[2 + axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis]
        if delta.shape[2 + axis] and input.shape[2 + axis] <= reach:
            raise ValueError(
                f"input must be padded: an output of {tuple(delta.shape[2:])} reaches to "
                f"{reach + 1} along dimension {2 + axis}; got {input.shape[2 + axis]}"
            )


# A look at an index makes the host wait for a GPU: one for every tensor, not for every call.
_checked_indices: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _check_index(index: Tensor, size: int) -> None:
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(f"index must be 1-d int64; got {index.dtype} of {tuple(index.shape)}")
    if index.numel() == 0 or _checked_indices.get(index) == (size, index._version):
        return
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= size:
        raise ValueError(f"index must be within 0..{size - 1}; got {low} to {high}")
    _checked_indices[index] = (size, index._version)


@torch.library.register_fake("fishermask_fast::fisher_diag_conv2d")  # type: ignore[untyped-decorator]
def _fisher_diag_conv2d_fake(
    input: Tensor,
    delta: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return delta.new_empty(delta.shape[1], input.shape[1] // groups, *kernel)


@torch.library.register_fake("fishermask_fast::fisher_diag_linear")  # type: ignore[untyped-decorator]
def _fisher_diag_linear_fake(input: Tensor, delta: Tensor) -> Tensor:
    return delta.new_empty(delta.shape[2], input.shape[2])


@torch.library.register_fake("fishermask_fast::masked_grad_conv2d")  # type: ignore[untyped-decorator]
def _masked_grad_conv2d_fake(
    input: Tensor,
    delta: Tensor,
    index: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return delta.new_empty(delta.shape[0], index.shape[0])


@torch.library.register_fake("fishermask_fast::masked_grad_linear")  # type: ignore[untyped-decorator]
def _masked_grad_linear_fake(input: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    return delta.new_empty(delta.shape[0], index.shape[0])
