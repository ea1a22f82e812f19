"""Per-sample weight gradients of one layer, from its input a and its output gradient delta.

For each sample n of a batch, and each kind of layer,

    convolution  dW[o,i,u] = sum_y delta[n,o,y] a[n,i, y*stride + u*dilation - padding]
    linear       dW[o,i]   = sum_t delta[n,t,o] a[n,t,i]           t: all dimensions between
    norm         dW[c]     = sum_y delta[n,c,y] xhat[n,c,y]        xhat: the normalised input
    embedding    dW[t,j]   = sum of delta[n,s,j] over positions s with a[n,s] = t
    bias         db[c]     = sum_y delta[n,c,y]

A rule offers each in three forms: whole, at some flat positions, and squared and summed over n.
Whatever has no rule here is left to torch.func by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishermask_fast import ops

_CHUNK_NUMBERS = 2**24
# A product reaches this many times the multiply-adds per second of gathered dot products.
_PRODUCT_GAIN = 16

Conv2dProblem = tuple[Tensor, Tensor, list[int], list[int], list[int]]


def _same(module: nn.Module, a: Tensor) -> Tensor:
    return a


@dataclass(frozen=True)
class LayerRule:
    """How one kind of parameter gets its per-sample gradients.

    Attributes:
        dense: (module, a, delta) -> (N, *parameter shape).
        masked: (module, a, delta, index) -> (N, m) at the flat positions index (m,).
        squared: (module, a, delta) -> parameter shape, sum over n of the squared gradients.
        prepare: (module, layer input) -> a, once for all rows of a batch.
        needs_input: whether a matters at all.
        flexible: whether further dimensions may stand between the samples' and the layer's own.
    """

    dense: Callable[[nn.Module, Tensor, Tensor], Tensor]
    masked: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    squared: Callable[[nn.Module, Tensor, Tensor], Tensor]
    prepare: Callable[[nn.Module, Tensor], Tensor] = _same
    needs_input: bool = True
    flexible: bool = False


def rule_for(module: nn.Module, name: str) -> LayerRule | None:
    """The rule for a module's own parameter `name`, or None where only torch.func is right.

    A subclass counts as its base only where it keeps the base's forward; a parameter that hooks
    or parametrisations replace before the forward has another name or owner and gets no rule.
    """
    if module._parameters.get(name) is None:
        return None
    for kind, rules in _RULES.items():
        if isinstance(module, kind):
            kept = "forward" not in vars(module) and type(module).forward is kind.forward
            kept = kept and (
                not isinstance(module, _CONVOLUTIONS)
                or type(module)._conv_forward is kind._conv_forward  # type: ignore[attr-defined]
            )
            return rules.get(name) if kept and _supported(module) else None
    return None


def _supported(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.running_mean is not None
    return True


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _compiled(delta: Tensor) -> bool:
    """Whether the compiled ops take these numbers; elsewhere the same is done by products."""
    return delta.device.type == "cpu" and delta.dtype in (torch.float32, torch.float64)


def _chunks(n: int, numbers: int) -> Iterator[slice]:
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
        size = _weight(module).numel()
        parts = [
            dense(module, a[chunk], delta[chunk]).flatten(1)[:, index]
            for chunk in _chunks(delta.shape[0], size)
        ]
        return torch.cat(parts) if parts else delta.new_zeros(0, index.numel())

    def squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
        weight = _weight(module)
        total = delta.new_zeros(weight.shape)
        for chunk in _chunks(delta.shape[0], weight.numel()):
            total += dense(module, a[chunk], delta[chunk]).square_().sum(0)
        return total

    return masked, squared


def _conv_pads(module: nn.Module) -> list[int]:
    """Padding as F.pad takes it: last dimension first, before and after."""
    assert isinstance(module, _CONVOLUTIONS)
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


def _conv_prepare(module: nn.Module, a: Tensor) -> Tensor:
    assert isinstance(module, _CONVOLUTIONS)
    pads = _conv_pads(module)
    if not any(pads):
        return a
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(a, pads, mode=mode)


def _conv_taps(module: nn.Module) -> int:
    assert isinstance(module, _CONVOLUTIONS)
    return math.prod(module.kernel_size)


def _conv_window(module: nn.Module, a: Tensor, delta: Tensor, tap: int) -> Tensor:
    """The padded input that kernel position `tap` meets, of delta's spatial shape (a view)."""
    assert isinstance(module, _CONVOLUTIONS)
    for axis in reversed(range(len(module.kernel_size))):
        tap, place = divmod(tap, module.kernel_size[axis])
        start = place * module.dilation[axis]
        step = module.stride[axis]
        last = start + step * (delta.shape[2 + axis] - 1)
        a = a[(slice(None),) * (2 + axis) + (slice(start, last + 1, step),)]
    return a


def _conv_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(module, _CONVOLUTIONS)
    weight = _weight(module)
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
    assert isinstance(module, _CONVOLUTIONS)
    if isinstance(module, nn.Conv3d) or not _compiled(delta):
        return None
    flat = isinstance(module, nn.Conv1d)
    pairs = [[1] * flat + list(o) for o in (module.kernel_size, module.stride, module.dilation)]
    a, delta = (a.unsqueeze(2), delta.unsqueeze(2)) if flat else (a, delta)
    return a, delta, pairs[0], pairs[1], pairs[2]


def _conv_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    assert isinstance(module, _CONVOLUTIONS)
    problem = _as_conv2d(module, a, delta)
    if problem is not None:
        return ops.masked_grad_conv2d(problem[0], problem[1], index, *problem[2:], module.groups)
    weight = _weight(module)
    if index.numel() * _PRODUCT_GAIN > weight.numel():
        return _conv_masked_by_product(module, a, delta, index)
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


_conv_masked_by_product, _conv_squared_by_product = _from_dense(_conv_dense)


def _conv_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(module, _CONVOLUTIONS)
    problem = _as_conv2d(module, a, delta)
    if problem is not None:
        return ops.fisher_diag_conv2d(*problem, module.groups).view(_weight(module).shape)
    return _conv_squared_by_product(module, a, delta)


def _linear_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    n = delta.shape[0]
    left = delta.reshape(n, -1, delta.shape[-1])
    return left.transpose(1, 2) @ a.reshape(n, -1, a.shape[-1])


def _linear_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    weight = _weight(module)
    n, tokens = delta.shape[0], math.prod(delta.shape[1:-1])
    crowded = index.numel() * _PRODUCT_GAIN > weight.numel()
    if tokens > 1 and crowded and not _compiled(delta):
        return _linear_masked_by_product(module, a, delta, index)
    left = delta.reshape(n, tokens, delta.shape[-1])
    right = a.reshape(n, tokens, a.shape[-1])
    if tokens > 1 and _compiled(delta):
        return ops.masked_grad_linear(right, left, index)
    result = delta.new_empty(n, index.numel())
    rows, columns = index // weight.shape[1], index % weight.shape[1]
    for chunk in _chunks(n, tokens * index.numel()):
        result[chunk] = (left[chunk][:, :, rows] * right[chunk][:, :, columns]).sum(1)
    return result


def _linear_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    if math.prod(delta.shape[1:-1]) == 1:
        n = delta.shape[0]
        # One token: (delta_o a_i)^2 = delta_o^2 a_i^2, so that one product sums over the samples.
        return delta.reshape(n, -1).square().T @ a.reshape(n, -1).square()
    if _compiled(delta):
        tokens = (delta.shape[0], math.prod(delta.shape[1:-1]))
        left, right = delta.reshape(*tokens, delta.shape[-1]), a.reshape(*tokens, a.shape[-1])
        return ops.fisher_diag_linear(right, left)
    return _linear_squared_by_product(module, a, delta)


_linear_masked_by_product, _linear_squared_by_product = _from_dense(_linear_dense)


def _batch_norm_prepare(module: nn.Module, a: Tensor) -> Tensor:
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    assert module.running_mean is not None and module.running_var is not None
    shape = (1, -1) + (1,) * (a.ndim - 2)
    mean, variance = module.running_mean.to(a.dtype), module.running_var.to(a.dtype)
    scale = torch.rsqrt(variance + module.eps)
    return torch.addcmul((-mean * scale).view(shape), a, scale.view(shape))


def _group_norm_prepare(module: nn.Module, a: Tensor) -> Tensor:
    assert isinstance(module, nn.GroupNorm)
    return F.group_norm(a, module.num_groups, None, None, module.eps)


def _layer_norm_prepare(module: nn.Module, a: Tensor) -> Tensor:
    assert isinstance(module, nn.LayerNorm)
    return F.layer_norm(a, module.normalized_shape, None, None, module.eps)


def _channel_sum(module: nn.Module, delta: Tensor) -> Tensor:
    """Sum over all but the samples and the parameter's own dimensions, as (N, *shape)."""
    if isinstance(module, nn.Linear):
        return delta.reshape(delta.shape[0], -1, delta.shape[-1]).sum(1)
    if isinstance(module, nn.LayerNorm):
        own = module.normalized_shape
        return delta.reshape(delta.shape[0], -1, *own).sum(1)
    return delta.flatten(2).sum(2) if delta.ndim > 2 else delta


def _scale_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return _channel_sum(module, a * delta)


def _bias_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return _channel_sum(module, delta)


def _vector_rule(
    dense: Callable[[nn.Module, Tensor, Tensor], Tensor],
    prepare: Callable[[nn.Module, Tensor], Tensor] = _same,
    *,
    needs_input: bool = True,
    flexible: bool = False,
) -> LayerRule:
    """A rule for parameters so small that their whole gradients cost nothing."""

    def masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
        return dense(module, a, delta).flatten(1)[:, index]

    def squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
        return dense(module, a, delta).square().sum(0)

    return LayerRule(dense, masked, squared, prepare, needs_input, flexible)


def _embedding_tokens(module: nn.Module, a: Tensor) -> Tensor:
    """Tokens as (N, s) with the padding token, which gets no gradient, put at -1."""
    assert isinstance(module, nn.Embedding)
    tokens = a.reshape(a.shape[0], -1).to(torch.int64)
    if module.padding_idx is not None:
        tokens = tokens.masked_fill(tokens == module.padding_idx, -1)
    return tokens


def _embedding_sums(tokens: Tensor, delta: Tensor, wanted: Tensor) -> Tensor:
    """Sums of delta over each sample's positions of every wanted token (sorted), (N, W, width)."""
    n, width = tokens.shape[0], delta.shape[-1]
    place = torch.searchsorted(wanted, tokens).clamp(max=wanted.numel() - 1)
    place = torch.where(wanted[place] == tokens, place, wanted.numel())
    sums = delta.new_zeros(n, wanted.numel() + 1, width)
    sums.scatter_add_(1, place[..., None].expand(-1, -1, width), delta.reshape(n, -1, width))
    return sums[:, :-1]


def _embedding_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return _embedding_sums(a, delta, torch.arange(_weight(module).shape[0], device=a.device))


def _embedding_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    width = _weight(module).shape[1]
    if index.numel() == 0:
        return delta.new_empty(delta.shape[0], 0)
    wanted, row = torch.unique(index // width, return_inverse=True)
    result = delta.new_empty(delta.shape[0], index.numel())
    for chunk in _chunks(delta.shape[0], (wanted.numel() + 1) * width):
        sums = _embedding_sums(a[chunk], delta[chunk], wanted)
        result[chunk] = sums[:, row, index % width]
    return result


def _embedding_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    vocabulary, width = _weight(module).shape
    n = a.shape[0]
    sample = torch.arange(n, device=a.device)[:, None]
    keys = torch.where(a >= 0, sample * vocabulary + a, n * vocabulary).flatten()
    pairs, place = torch.unique(keys, return_inverse=True)
    sums = delta.new_zeros(pairs.numel(), width).index_add_(0, place, delta.reshape(-1, width))
    # The one extra row takes the padding tokens.
    total = delta.new_zeros(vocabulary + 1, width)
    row = torch.where(pairs == n * vocabulary, vocabulary, pairs % vocabulary)
    return total.index_add_(0, row, sums.square_())[:-1]


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_BIAS = _vector_rule(_bias_dense, needs_input=False)
_FLEXIBLE_BIAS = _vector_rule(_bias_dense, needs_input=False, flexible=True)
_CONV = {
    "weight": LayerRule(_conv_dense, _conv_masked, _conv_squared, _conv_prepare),
    "bias": _BIAS,
}
_LINEAR = {
    "weight": LayerRule(_linear_dense, _linear_masked, _linear_squared, flexible=True),
    "bias": _FLEXIBLE_BIAS,
}
_BATCH_NORM = {"weight": _vector_rule(_scale_dense, _batch_norm_prepare), "bias": _BIAS}
_GROUP_NORM = {"weight": _vector_rule(_scale_dense, _group_norm_prepare), "bias": _BIAS}
_LAYER_NORM = {
    "weight": _vector_rule(_scale_dense, _layer_norm_prepare, flexible=True),
    "bias": _FLEXIBLE_BIAS,
}
_EMBEDDING = {
    "weight": LayerRule(
        _embedding_dense, _embedding_masked, _embedding_squared, _embedding_tokens, flexible=True
    )
}

_RULES: dict[type[nn.Module], dict[str, LayerRule]] = {
    nn.Conv1d: _CONV,
    nn.Conv2d: _CONV,
    nn.Conv3d: _CONV,
    nn.Linear: _LINEAR,
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
    nn.BatchNorm3d: _BATCH_NORM,
    nn.SyncBatchNorm: _BATCH_NORM,
    nn.GroupNorm: _GROUP_NORM,
    nn.LayerNorm: _LAYER_NORM,
    nn.Embedding: _EMBEDDING,
}
