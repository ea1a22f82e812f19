"""Per-sample gradients of a parameter, from the operation of the autograd graph that consumes it.

With the output gradient delta of the operation and what it saved, for each kind of operation and
argument, the sample's part of

    Addmm, Mm       dW = sum_t a[t]^T delta[t]                 t: all rows of the sample
    Bmm             the same for each matrix of the batch
    Convolution     dW = sum_y delta[o,y] a[i, y*stride + u*dilation - padding]
    norms           dw = sum_y delta[y] xhat[y]                xhat: the normalised input
    Embedding, Index   dW[v] = sum of delta over the places that looked v up
    Mul, Add, ...   dw = sum of delta times what w met, over all places where w was repeated

A rule reads what the operation saved, once for all rows of a batch, and returns the way from
delta to a term. An operation without a rule, or one that does not save what its rule reads, is
left to torch.func by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from fishermask_fast.gradients import lookups
from fishermask_fast.gradients.reading import Maker, Reading, missing_fields
from fishermask_fast.gradients.terms import Batched, Correlation, Product, Term, Whole
from fishermask_fast.gradients.weight_products import Convolution, pad

logger = logging.getLogger(__name__)


def _summed(r: Reading, factor: Tensor | float | None = None) -> Maker | None:
    """Sum of delta times a factor over all dimensions along which the argument was repeated."""
    layout = r.layout

    def make(delta: Tensor) -> Term:
        own = layout.own(delta if factor is None else delta * factor)  # (n, *dimensions)
        shape = (1,) * (own.ndim - 1 - len(r.shape)) + r.shape
        over = [d for d, size in enumerate(shape, 1) if size == 1 and own.shape[d] != 1]
        return Whole((own.sum(over) if over else own).reshape(layout.n, *r.shape))

    # Along the samples the argument has one entry for all, or is there once for each.
    axis = layout.axis + len(r.shape) - len(r.result)
    size = 1 if axis < 0 else r.shape[axis]
    own = layout.outer == 1 and layout.inner == size and r.node.name() == "RepeatBackward0"
    return make if size == 1 or own else None


def _channels(r: Reading, factor: Tensor | None = None) -> Maker | None:
    """Sum of delta times a factor over all dimensions but the samples' and the channels'."""
    if r.layout.axis != 0:
        return None

    def make(delta: Tensor) -> Term:
        own = r.layout.arrange(delta if factor is None else delta * factor)
        return Whole(own.sum([1, *range(3, own.ndim)]))

    return make


def _product(r: Reading, other: Tensor, *, first: bool, scale: float = 1.0) -> Maker | None:
    """A matrix (rows, columns) that was multiplied with `other`; `first` if it stood left."""
    if r.layout.axis != (1 if first else 0):
        return None
    a = r.layout.arrange(other if scale == 1.0 else other * scale)

    def make(delta: Tensor) -> Term:
        own = r.layout.arrange(delta)
        return Product(own, a) if first else Product(a, own)

    return make


def _addmm(r: Reading) -> Maker | None:
    alpha, beta = float(r.saved("_saved_alpha")), float(r.saved("_saved_beta"))
    if r.argument == 0:
        return _summed(r, None if beta == 1.0 else beta)
    other = r.saved("_saved_mat2" if r.argument == 1 else "_saved_mat1")
    return _product(r, other, first=r.argument == 1, scale=alpha)


def _mm(r: Reading) -> Maker | None:
    other = r.saved("_saved_mat2" if r.argument == 0 else "_saved_self")
    return _product(r, other, first=r.argument == 0)


def _bmm(r: Reading) -> Maker | None:
    first = r.argument == 0
    return _batched(r, r.saved("_saved_mat2" if first else "_saved_self"), first=first)


def _baddbmm(r: Reading) -> Maker | None:
    alpha, beta = float(r.saved("_saved_alpha")), float(r.saved("_saved_beta"))
    if r.argument == 0:
        return _summed(r, None if beta == 1.0 else beta)
    first = r.argument == 1
    other = r.saved("_saved_batch2" if first else "_saved_batch1")
    return _batched(r, other if alpha == 1.0 else other * alpha, first=first)


def _batched(r: Reading, other: Tensor, *, first: bool) -> Maker | None:
    """As `_product`, for each of several matrices."""
    if r.layout.axis != (2 if first else 1):
        return None
    a = r.layout.arrange(other)

    def make(delta: Tensor) -> Term:
        own = r.layout.arrange(delta)
        return Batched(own, a) if first else Batched(a, own)

    return make


def _bilinear(r: Reading) -> Maker | None:
    """A matrix (L, R) for each output between two inputs (rows, L) and (rows, R)."""
    expanded = [list(r.saved(f"_saved_expand{i}")) for i in (1, 2, 3)]
    as_bilinear = expanded == [[1, 3], [0], [1, 2]] and list(r.saved("_saved_sumdim")) == [2, 3]
    if r.argument != 1 or not as_bilinear or r.layout.axis != 0:
        return None
    left, right = (r.layout.arrange(r.saved(f"_saved_i{i}")) for i in (1, 3))
    pairs = (left[..., :, None] * right[..., None, :]).flatten(2)
    return lambda delta: Product(r.layout.arrange(delta), pairs)


def _mv(r: Reading) -> Maker | None:
    if r.argument != 1 or r.layout.axis != 0:
        return None
    a = r.layout.arrange(r.saved("_saved_self"))
    return lambda delta: Whole(torch.einsum("nt,ntd->nd", r.layout.arrange(delta), a))


def _convolution(r: Reading) -> Maker | None:
    if r.argument == 2:
        return _channels(r)
    if r.argument != 1 or r.layout.axis != 0:
        return None
    stride, dilation, padding = (
        tuple(r.saved(f"_saved_{field}")) for field in ("stride", "dilation", "padding")
    )
    convolution = Convolution(r.shape, stride, dilation, r.saved("_saved_groups"))
    given = r.saved("_saved_input")
    if r.saved("_saved_transposed"):
        # The same sum with input and output in each other's places.
        small = r.layout.arrange(given)
        ends = [
            (size - 1) * step + (taps - 1) * apart + 1
            for size, step, taps, apart in zip(
                given.shape[2:], stride, r.shape[2:], dilation, strict=True
            )
        ]

        def transposed(delta: Tensor) -> Term:
            large = pad(delta, padding)
            for axis, end in enumerate(ends, 2):
                large = large.narrow(axis, 0, end)
            return Correlation(convolution, r.layout.arrange(large), small)

        return transposed
    a = r.layout.arrange(pad(given, padding))
    return lambda delta: Correlation(convolution, a, r.layout.arrange(delta))


def _layer_norm(r: Reading) -> Maker | None:
    if r.argument == 2:
        return _summed(r)
    if r.argument != 1:
        return None
    mean, scale = r.saved("_saved_result1"), r.saved("_saved_result2")
    return _summed(r, (r.saved("_saved_input") - mean) * scale)


def _rms_norm(r: Reading) -> Maker | None:
    if r.argument != 1:
        return None
    return _summed(r, r.saved("_saved_input") * r.saved("_saved_result1"))


def _group_norm(r: Reading) -> Maker | None:
    if r.argument == 2:
        return _channels(r)
    if r.argument != 1:
        return None
    given = r.saved("_saved_input")
    groups = (given.shape[0], r.saved("_saved_group"), -1)
    mean, scale = (r.saved(f"_saved_result{i}").reshape(*groups) for i in (1, 2))
    return _channels(r, ((given.reshape(groups) - mean) * scale).view(given.shape))


def _batch_norm(r: Reading) -> Maker | None:
    native = r.node.name() == "NativeBatchNormBackward0"
    if r.saved("_saved_training"):
        return None
    if r.argument == 2:
        return _channels(r)
    if r.argument != 1:
        return None
    given = r.saved("_saved_input")
    mean, variance = r.saved("_saved_running_mean"), r.saved("_saved_running_var")
    scale = torch.rsqrt(variance + r.saved("_saved_eps" if native else "_saved_epsilon"))
    shape = (1, -1) + (1,) * (given.ndim - 2)
    return _channels(r, torch.addcmul((-mean * scale).view(shape), given, scale.view(shape)))


def _prelu(r: Reading) -> Maker | None:
    return _summed(r, r.saved("_saved_self").clamp(max=0)) if r.argument == 1 else None


def _mul(r: Reading) -> Maker | None:
    return _summed(r, r.saved("_saved_other" if r.argument == 0 else "_saved_self"))


def _div(r: Reading) -> Maker | None:
    return _summed(r, 1 / r.saved("_saved_other")) if r.argument == 0 else None


def _where(r: Reading) -> Maker | None:
    condition = r.saved("_saved_condition")
    return _summed(r, (condition if r.argument == 0 else ~condition).to(r.dtype))


def _add(r: Reading) -> Maker | None:
    sign = -1.0 if r.node.name() == "SubBackward0" else 1.0
    alpha = 1.0 if r.argument == 0 else sign * float(r.saved("_saved_alpha"))
    return _summed(r, None if alpha == 1.0 else alpha)


def _repeat(r: Reading) -> Maker | None:
    repeats = r.saved("_saved_repeats")
    shape = (1,) * (len(repeats) - len(r.shape)) + r.shape
    # Elsewhere than along the samples, copies of more than one entry stand side by side.
    apart = [
        size > 1 and times > 1 and axis != r.layout.axis
        for axis, (size, times) in enumerate(zip(shape, repeats, strict=True))
    ]
    return None if any(apart) else _summed(r)


_RULES: dict[str, Callable[[Reading], Maker | None]] = {
    "AddmmBackward0": _addmm,
    "MmBackward0": _mm,
    "BmmBackward0": _bmm,
    "BaddbmmBackward0": _baddbmm,
    "TrilinearBackward0": _bilinear,
    "MvBackward0": _mv,
    "ConvolutionBackward0": _convolution,
    "NativeLayerNormBackward0": _layer_norm,
    "FusedRmsNormBackward0": _rms_norm,
    "NativeGroupNormBackward0": _group_norm,
    "NativeBatchNormBackward0": _batch_norm,
    "CudnnBatchNormBackward0": _batch_norm,
    "PreluKernelBackward0": _prelu,
    "EmbeddingBackward0": lookups.embedding,
    "EmbeddingBagBackward0": lookups.embedding_bag,
    "IndexBackward0": lookups.index,
    "IndexSelectBackward0": lookups.index,
    "MulBackward0": _mul,
    "DivBackward0": _div,
    "WhereBackward0": _where,
    "AddBackward0": _add,
    "SubBackward0": _add,
    "ExpandBackward0": _summed,
    "RepeatBackward0": _repeat,
}


def read_rule(r: Reading) -> Maker | None:
    """The way from an operation's output gradient to a parameter's term.

    Returns:
        None for an operation without a rule, or where its rule does not hold.

    Raises:
        RuntimeError: the operation's input has been overwritten since.
    """
    kind = r.node.name()
    if kind not in _RULES:
        return None
    missing = missing_fields(r.node)
    if missing:
        logger.warning(
            "torch %s saves no %s on %s; its parameters go the slow way",
            torch.__version__, ", ".join(missing), kind,
        )  # fmt: skip
        return None
    return _RULES[kind](r)
