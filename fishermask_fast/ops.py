"""The compiled ops: one typed wrapper and one fake kernel for each.

What each op computes is defined in ``reference``; importing this module loads them (``loading``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fishermask_fast import loading  # noqa: F401  registers the ops
from fishermask_fast.factors import GradientFactors


def score_update(
    factors: GradientFactors,
    index: Tensor,  # (n,) int64
    u: Tensor,  # (sum of ranks, k) float64
    w: Tensor,  # (sum of ranks, k) float64
    ranks: Sequence[int],
    thresholds: Tensor,  # (T,) float64
    a: Tensor,  # (N, r (r + 1) / 2) float64
    b: Tensor,  # (N, r (r + 1) / 2) float64
    scores: Tensor,  # (N,) float64
    *,
    scale: float = 1.0,
    float64_products: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes T rank updates of A, B and score for some candidates, in order, in place.

    With V = scale * factors and U, W of update t the transposes of ranks[t] rows of `u` and `w`:
    P = V U, R = V W; A -= P P^T; B -= P R^T + R P^T; score = tr(A^-1 B). With T = 0
    only the scores are computed, from A and B.

    Args:
        factors: all N candidates; float32 or float64.
        index: the candidates to bring up to date.
        u: U^T of every update, one below the other.
        w: W^T of every update likewise.
        ranks: columns of each update; T = len(ranks).
        thresholds: a score for each update, see Returns.
        a: A of all candidates as packed lower triangles, changed in place.
        b: B likewise.
        scores: changed in place; before the call the score that A and B stand for.
        scale: V is scale * factors.
        float64_products: whether P and R are computed in float64 where the factors are float32.
            Always on a GPU whose float32 products torch is allowed to take in TF32.

    Returns:
        (T,) tensors over the candidates in `index`, for the scores before each update: the largest,
        its lowest index, and the lowest index with a score of at least the threshold. An index is
        N where there is none.

    Raises:
        TypeError: a dtype other than stated.
        ValueError: a shape other than stated, or another device than the factors'.
    """
    n, r, k = len(factors), factors.n_rows, factors.n_columns
    packed = (n, r * (r + 1) // 2)
    given = {
        "u": (u, (sum(ranks), k)),
        "w": (w, (sum(ranks), k)),
        "thresholds": (thresholds, (len(ranks),)),
        "a": (a, packed),
        "b": (b, packed),
        "scores": (scores, (n,)),
    }
    _check_state(factors, index, given, contiguous=("a", "b", "scores"))
    on_gpu = factors.device.type == "cuda"
    # Autocast would take float32 products in half precision.
    with torch.autocast("cuda", enabled=False) if on_gpu else nullcontext():
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.fishermask_fast.score_update(
            *_parts(factors),
            index.contiguous(),
            u,
            w,
            list(ranks),
            scale,
            thresholds,
            float64_products or (on_gpu and _tf32_is_on()),
            a,
            b,
            scores,
        )
    return result


def _check_state(
    factors: GradientFactors,
    index: Tensor,
    given: Mapping[str, tuple[Tensor, tuple[int, ...]]],
    contiguous: tuple[str, ...],
) -> None:
    """What the ops of the selection have in common; `given`: float64 tensors and their shapes."""
    if factors.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"factors must be float32 or float64; got {factors.dtype}")
    for name, (tensor, shape) in given.items():
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be float64; got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
        if name in contiguous and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous")
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(f"index must be 1-d int64; got {index.dtype} of {tuple(index.shape)}")
    tensors = {"index": index, **{name: tensor for name, (tensor, _) in given.items()}}
    for name, tensor in tensors.items():
        if tensor.device != factors.device:
            raise ValueError(
                f"{name} is on {tensor.device}; expected the factors' {factors.device}"
            )


def _parts(factors: GradientFactors) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The factors as ops take them."""
    return (
        factors.middle.contiguous(),
        None if factors.coupling is None else factors.coupling.contiguous(),
        None if factors.hidden is None else factors.hidden.contiguous(),
        factors.head_index,
    )


def _tf32_is_on() -> bool:
    return torch.backends.cuda.matmul.fp32_precision not in ("ieee", "none")


@torch.library.register_fake("fishermask_fast::score_update")  # type: ignore[untyped-decorator]
def _score_update_fake(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    u: Tensor,
    w: Tensor,
    ranks: list[int],
    scale: float,
    thresholds: Tensor,
    float64_products: bool,
    a: Tensor,
    b: Tensor,
    scores: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    best = a.new_empty(len(ranks))
    return (
        best,
        torch.empty_like(best, dtype=torch.int64),
        torch.empty_like(best, dtype=torch.int64),
    )


def inverse_products(
    factors: GradientFactors,
    index: Tensor,  # (n,) int64
    first: Tensor,  # (k, k) float64
    second: Tensor,  # (k, k) float64
    u: Tensor,  # (h, k) float64
    w: Tensor,  # (h, k) float64
    *,
    scale: float = 1.0,
    sign: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """V_x, Y = V_x M^-1 and Z = V_x G of some samples, with the updates that wait to be folded in.

        M^-1 = first -+ U U^T,   G = second -+ (U W^T + W U^T),   V_x = scale * factors

    Args:
        factors: all N candidates; float32 or float64.
        index: the samples wanted.
        first: symmetric; only its lower triangle is read.
        second: likewise.
        u: U^T, for any number h of columns.
        w: W^T.
        scale: see above.
        sign: 1 for the upper signs (picks), -1 for the lower ones (removals).

    Returns:
        V_x, Y and Z, each (n, r, k) float64.

    Raises:
        TypeError: a dtype other than stated.
        ValueError: a shape other than stated, or another device than the factors', or rows that are
            not contiguous.
    """
    k, h = factors.n_columns, u.shape[0]
    given = {
        "first": (first, (k, k)),
        "second": (second, (k, k)),
        "u": (u, (h, k)),
        "w": (w, (h, k)),
    }
    _check_state(factors, index, given, contiguous=tuple(given))
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.fishermask_fast.inverse_products(
        *_parts(factors),
        index.contiguous(),
        first,
        second,
        u,
        w,
        scale,
        sign,
    )
    return result


@torch.library.impl("fishermask_fast::inverse_products", "CUDA")
def _inverse_products_cuda(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    first: Tensor,
    second: Tensor,
    u: Tensor,
    w: Tensor,
    scale: float,
    sign: float,
) -> tuple[Tensor, Tensor, Tensor]:
    chosen = GradientFactors(middle, coupling, hidden, head_index)[index].to(dtype=torch.float64)
    rows = chosen.dense() * scale
    p, r = rows @ u.T * -sign, rows @ w.T * -sign
    y, z = (chosen.times(s.tril() + s.tril(-1).T) * scale for s in (first, second))
    return rows, y + p @ u, z + (r @ u + p @ w)


@torch.library.register_fake("fishermask_fast::inverse_products")  # type: ignore[untyped-decorator]
def _inverse_products_fake(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    first: Tensor,
    second: Tensor,
    u: Tensor,
    w: Tensor,
    scale: float,
    sign: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = first.new_empty(index.shape[0], middle.shape[1], first.shape[0])
    return rows, torch.empty_like(rows), torch.empty_like(rows)


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
