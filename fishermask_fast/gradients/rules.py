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

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishermask_fast.gradients.weight_products import (
    chunks,
    conv_dense,
    conv_masked,
    conv_prepare,
    conv_squared,
    linear_dense,
    linear_masked,
    linear_squared,
    weight_of,
)
from fishermask_fast.network import CONVOLUTIONS


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
                not isinstance(module, CONVOLUTIONS)
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
    place = torch.searchsorted(wanted, tokens.contiguous()).clamp(max=wanted.numel() - 1)
    place = torch.where(wanted[place] == tokens, place, wanted.numel())
    sums = delta.new_zeros(n, wanted.numel() + 1, width)
    sums.scatter_add_(1, place[..., None].expand(-1, -1, width), delta.reshape(n, -1, width))
    return sums[:, :-1]


def _embedding_dense(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return _embedding_sums(a, delta, torch.arange(weight_of(module).shape[0], device=a.device))


def _embedding_masked(module: nn.Module, a: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    width = weight_of(module).shape[1]
    if index.numel() == 0:
        return delta.new_empty(delta.shape[0], 0)
    wanted, row = torch.unique(index // width, return_inverse=True)
    result = delta.new_empty(delta.shape[0], index.numel())
    for chunk in chunks(delta.shape[0], (wanted.numel() + 1) * width):
        sums = _embedding_sums(a[chunk], delta[chunk], wanted)
        result[chunk] = sums[:, row, index % width]
    return result


def _embedding_squared(module: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    vocabulary, width = weight_of(module).shape
    n = a.shape[0]
    sample = torch.arange(n, device=a.device)[:, None]
    keys = torch.where(a >= 0, sample * vocabulary + a, n * vocabulary).flatten()
    pairs, place = torch.unique(keys, return_inverse=True)
    sums = delta.new_zeros(pairs.numel(), width).index_add_(0, place, delta.reshape(-1, width))
    # The one extra row takes the padding tokens.
    total = delta.new_zeros(vocabulary + 1, width)
    row = torch.where(pairs == n * vocabulary, vocabulary, pairs % vocabulary)
    return total.index_add_(0, row, sums.square_())[:-1]


_BIAS = _vector_rule(_bias_dense, needs_input=False)
_FLEXIBLE_BIAS = _vector_rule(_bias_dense, needs_input=False, flexible=True)
_CONV = {
    "weight": LayerRule(conv_dense, conv_masked, conv_squared, conv_prepare),
    "bias": _BIAS,
}
_LINEAR = {
    "weight": LayerRule(linear_dense, linear_masked, linear_squared, flexible=True),
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
