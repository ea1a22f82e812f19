"""Parameters that reach the logits by way of a tensor that a module keeps, and so have no gradient.

In eval mode a module may keep g(theta) from one forward to the next (a table of attention biases,
a merged or normalised weight, a buffer), so that f depends on theta and autograd does not see it:

    z = f(x; theta, g),   g made before:   dz / dtheta = 0 by autograd, though g = g(theta)

Such parameters are found by trying: those that the logits' graph does not lead to are changed. The
logits stay the same then, and change once the model is put into eval mode anew. A g made before and
kept for good leaves no such trace: there the forward's own use of tensors from before is asked.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.checks import caller_level
from fishermask_fast.gradients.fallback import call_with
from fishermask_fast.gradients.taken import taken_from_before
from fishermask_fast.gradients.tracing import Traced, replaced, trace
from fishermask_fast.network import (
    Inputs,
    KeptTensors,
    call,
    drop_kept_tensors,
    read_graph,
)

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
    if _computed_in_training(model, two, traced.lost, before):
        traced = trace(model, inputs, names)
    lost = list(traced.lost)
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
        _check_not_kept_before(model, two, lost, before)
    if lost and not traced.graph.opaque:  # which may use parameters unseen
        logger.warning("no way leads from the logits to %s: zeros for gradients", _listed(lost))
    return traced


def _check_not_kept_before(
    model: nn.Module, inputs: Inputs, lost: list[str], before: KeptTensors
) -> None:
    """Sees to it that nobody takes zeros for gradients where a tensor was made from parameters.

    Raises:
        ValueError: parameters that no operation was given, in a module that takes other tensors
            from before. Where these are another module's, a warning says so.
    """
    taken = taken_from_before(model, inputs, lost)
    hidden = [name for name in lost if name not in taken.parameters and taken.near(name)]
    if hidden:
        # Those are used after all, without autograd, as by .data.
        used = _that_count(_AsItIs(model, before), inputs, hidden)
        hidden = [name for name in hidden if name not in used]
    own = [name for name in hidden if taken.of(name)]
    if own:
        raise ValueError(
            f"the logits do not depend on {_listed(own)}, but their module uses tensors from "
            "before the forward, which may have been made from them and kept; expected a forward "
            "that computes such tensors from the parameters. Change it so, and load the state_dict "
            "into a new model that keeps nothing; or, where these parameters are unused, leave "
            "them out by requires_grad_(False)"
        )
    if hidden:
        warnings.warn(
            f"no way leads from the logits to {_listed(hidden)}: their gradients are taken for "
            "zeros. They are unused by these samples, or the model keeps tensors that it made from "
            "them before: then load the state_dict into a new model that keeps nothing. Unused "
            "ones can be left out by requires_grad_(False)",
            UserWarning,
            stacklevel=caller_level(),
        )


def _computed_in_training(
    model: nn.Module,
    inputs: Inputs,
    names: Collection[str],
    before: KeptTensors,
) -> bool:
    """Whether some module uses some of the parameters where its own `training` is set.

    The flag stays set where the logits are the same with it, and is taken back otherwise.
    """
    expected = _logits(model, inputs)
    left = set(names)
    for owner in _owners(model, names):
        if not left:
            break
        before.restore()
        owner.training = True
        read = set()
        if torch.equal(_logits(model, inputs), expected):
            read = _read(model, inputs, left)
        left -= read
        owner.training = bool(read)
    before.restore()
    return len(left) < len(names)


def _owners(model: nn.Module, names: Collection[str]) -> list[nn.Module]:
    """The modules that parameters lie in, near or far, the nearest first."""
    paths: dict[str, None] = {}
    for name in names:
        path = name
        while path:
            path = path.rpartition(".")[0]
            paths[path] = None
    owners = [model.get_submodule(path) for path in sorted(paths, key=lambda path: -len(path))]
    # Layers of torch use their parameters at every forward, whatever the flag says.
    own = [owner for owner in owners if not type(owner).__module__.startswith("torch.nn.modules.")]
    return [owner for owner in own if not owner.training]


def _read(model: nn.Module, inputs: Inputs, names: Collection[str]) -> set[str]:
    """The named parameters that a second forward reads, when the first has kept what it keeps."""
    second = replaced(model, inputs, names)
    if second is None:
        return set()
    leaves = read_graph(second.logits).leaves
    return {name for name in names if id(second.leaves[name]) in leaves}


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
