"""Parameters that reach the logits by way of a tensor that a module keeps, and so have no gradient.

In eval mode a module may keep g(theta) from one forward to the next (a table of attention biases,
a merged or normalised weight, a buffer), so that f depends on theta and autograd does not see it:

    z = f(x; theta, g),   g made before:   dz / dtheta = 0 by autograd, though g = g(theta)

Such parameters are found by trying: those that the logits' graph does not lead to are changed. The
logits stay the same then, and change once the model is put into eval mode anew.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.gradients.fallback import call_with
from fishermask_fast.gradients.tracing import Traced, trace
from fishermask_fast.network import Inputs, KeptTensors, call, drop_kept_tensors

logger = logging.getLogger(__name__)


def trace_past_kept_tensors(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Traced:
    """Sees to it that autograd finds every parameter that the logits depend on.

    Where a module computes the tensor anew as long as its own `training` says so, with the same
    logits, that flag is set; `evaluating` takes it back.

    Args:
        model: as `evaluation.evaluating` gives it.
        inputs: a batch, of which two samples are tried.
        names: the parameters whose gradients are wanted.

    Returns:
        Samples on their way through the model.

    Raises:
        ValueError: parameters whose values count, by way of tensors that the model keeps; or a
            model that does not take such samples.
    """
    before = KeptTensors(model)
    traced = trace(model, inputs, names)
    if not traced.lost:
        return traced
    two = traced.inputs
    passed_by = _computed_in_training(model, two, traced.lost, before)
    lost = [name for name in traced.lost if name not in passed_by]
    # A graph that leads to a parameter and not to its replacement was made before.
    kept = sorted(traced.found & set(lost)) or _kept_from(model, two, lost, before)
    if kept:
        raise ValueError(
            f"the logits depend on {_listed(kept)} by way of tensors that the model keeps from "
            "them in eval mode, or made before, so that they have no gradients; expected a forward "
            "that computes such tensors from the parameters. Change it so, or leave these "
            "parameters out by requires_grad_(False)"
        )
    if lost:
        logger.warning("no way leads from the logits to %s: zeros for gradients", _listed(lost))
    return trace(model, inputs, names) if passed_by else traced


def _computed_in_training(
    model: nn.Module,
    inputs: Inputs,
    names: Collection[str],
    before: KeptTensors,
) -> set[str]:
    """Those of the parameters whose module uses them where its own `training` is set.

    The flag stays set where the logits are the same with it, and is taken back otherwise.
    """
    expected = _logits(model, inputs)
    owned: dict[str, list[str]] = {}
    for name in names:
        owned.setdefault(name.rpartition(".")[0], []).append(name)
    passed_by: set[str] = set()
    for path, own in owned.items():
        owner = model.get_submodule(path)
        # Layers of torch use their parameters at every forward, whatever the flag says.
        if owner.training or type(owner).__module__.startswith("torch.nn.modules."):
            continue
        before.restore()
        owner.training = True
        if torch.equal(_logits(model, inputs), expected):
            lost = trace(model, inputs, own).lost
            if len(lost) < len(own):
                passed_by |= set(own) - set(lost)
                continue
        owner.training = False
    before.restore()
    return passed_by


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} others" if len(names) > 5 else "")


class _Anew(nn.Module):
    """A model that is put into eval mode at each call, so that it makes anew what it keeps."""

    def __init__(self, model: nn.Module, before: KeptTensors) -> None:
        super().__init__()
        self.model, self.before = model, before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.before.restore()
        self.model.eval()
        try:
            return self.model(*args, **kwargs)
        finally:
            # While the values that were kept are still those of the parameters.
            drop_kept_tensors(self.model)


class _AsItIs(_Anew):
    """The model with what it keeps."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _kept_from(
    model: nn.Module, inputs: Inputs, names: list[str], before: KeptTensors
) -> list[str]:
    """Parameters that change the logits of a model made ready anew, and not of one as it is.

    Those that change both are read by every forward, and cut off from it by the model's own
    detach() or no_grad().
    """
    if not names:
        return []
    flags = [(module, module.training) for module in model.modules()]
    try:
        _logits(model, inputs)  # so that what is kept is there
        read = _that_count(_AsItIs(model, before), inputs, names)
        drop_kept_tensors(model)
        return _that_count(_Anew(model, before), inputs, [n for n in names if n not in read])
    finally:
        before.restore()
        model.eval()
        for module, training in flags:
            module.training = training


@torch.no_grad()
def _that_count(wrapped: _Anew, inputs: Inputs, names: list[str]) -> list[str]:
    """Those of the named parameters whose values change the logits."""
    values = {name: p.detach() for name, p in wrapped.model.named_parameters()}
    changed = {name: _changed(values[name]) for name in names}

    def logits(some: Collection[str]) -> Tensor:
        torch.manual_seed(0)
        given = values | {name: changed[name] for name in some}
        return call_with(wrapped, {f"model.{name}": value for name, value in given.items()}, inputs)

    plain = logits(())
    noise = (logits(()) - plain).abs().max()

    def count(some: list[str]) -> bool:
        return bool(some) and not bool((logits(some) - plain).abs().max() <= 2 * noise)

    if not count(names):
        return []
    return [name for name in names if count([name])] or names


@torch.no_grad()
def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    torch.manual_seed(0)
    return call(model, inputs)


def _changed(values: Tensor) -> Tensor:
    if not values.numel():
        return values
    size = values.abs().max().clamp(min=0.1)
    return values + 0.3 * size * torch.randn_like(values)
