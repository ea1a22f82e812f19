"""Per-sample gradients of any parameter whatever, by torch.func.

For each sample x alone, and each row j of its cotangents,

    V_x[j] = d (L_x[:, j]^T f(x; theta)) / d theta

by reverse mode, over all samples and rows at once where the model's operations allow it, and one
sample after another where they do not. It is what the layers' rules must equal, and it serves
the parameters that have none: shared weights, recurrent layers, parametrisations.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from fishermask_fast.network import Inputs, count_samples, logits_of, rebuilt, samples_of, take

logger = logging.getLogger(__name__)

_CHUNK_NUMBERS = 2**24


def per_sample_rows(
    model: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    names: Collection[str],
    pick: Callable[[str, Tensor], Tensor] = lambda name, gradient: gradient,
) -> Iterator[tuple[slice, slice, dict[str, Tensor]]]:
    """Gradients of the named parameters for some samples and some rows at a time.

    Args:
        model: as `evaluation.evaluating` gives it.
        inputs: a batch of n samples.
        rows: (n, r, C) cotangents at the logits.
        names: parameters.
        pick: (name, gradient) -> the part of it to keep.

    Yields:
        (samples, rows, name -> what is kept of the gradients (samples, rows, *parameter shape)).
    """
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name].detach() for name in names}
    rest = {name: p.detach() for name, p in parameters.items() if name not in chosen}
    n, r = rows.shape[:2]
    numbers = max(1, sum(p.numel() for p in chosen.values()))
    some_rows = max(1, min(r, _CHUNK_NUMBERS // numbers))
    size = max(1, _CHUNK_NUMBERS // (some_rows * numbers))
    together = True
    for start, first in itertools.product(range(0, n, size), range(0, r, some_rows)):
        part = slice(start, min(start + size, n))
        which = slice(first, min(first + some_rows, r))
        cotangents = rows[part, which]
        here = torch.arange(part.start, part.stop, device=rows.device)
        some = take(inputs, here.to(_device_of(inputs)))
        if together:
            try:
                found = _together(model, some, cotangents, chosen, rest)
            except (RuntimeError, NotImplementedError) as error:
                logger.info("torch.func cannot take these samples together: %s", error)
                together = False
        if not together:
            found = _one_by_one(model, some, cotangents, chosen, rest)
        yield part, which, {name: pick(name, gradient) for name, gradient in found.items()}


def _device_of(inputs: Inputs) -> torch.device:
    values = [inputs] if isinstance(inputs, Tensor) else inputs.values()
    return next(v.device for v in values if isinstance(v, Tensor))


def call_with(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
    """The logits of a batch under other values of all parameters, by first name."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), None)
    # Ties are resolved here: functional_call replaces those of a module with two names twice, and
    # puts the replacement back instead of the parameter.
    everywhere = {place: parameters[name] for place, name in _places(model).items()}
    return logits_of(functional_call(model, everywhere, args, kwargs, tie_weights=False))


def _places(model: nn.Module) -> dict[str, str]:
    """Where each parameter stands, every module once: path -> the parameter's first name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{path}.{local}" if path else local: names[id(p)]
        for path, module in model.named_modules()
        for local, p in module._parameters.items()
        if p is not None
    }


def _together(
    model: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    parameters: dict[str, Tensor],
    rest: dict[str, Tensor],
) -> dict[str, Tensor]:
    n = count_samples(inputs)
    fixed: dict[str, Any] = {}
    batched: dict[str, Tensor] = {}
    if isinstance(inputs, Tensor):
        batched[""] = inputs
    else:
        batched = samples_of(inputs, n)
        fixed = {key: value for key, value in inputs.items() if key not in batched}

    def one(sample: dict[str, Tensor], cotangents: Tensor) -> dict[str, Tensor]:
        alone = {key: value.unsqueeze(0) for key, value in sample.items()}
        single = alone[""] if isinstance(inputs, Tensor) else rebuilt(inputs, {**fixed, **alone})

        def logits(p: dict[str, Tensor]) -> Tensor:
            return call_with(model, rest | p, single)[0]

        z, pull, *_ = vjp(logits, parameters)
        pulled: dict[str, Tensor] = vmap(pull)(cotangents.to(z.dtype))[0]
        return pulled

    with warnings.catch_warnings():
        # Slow paths inside vmap are no news here: this is the slow way by intention.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found: dict[str, Tensor] = vmap(one)(batched, rows)
    return found


def _one_by_one(
    model: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    parameters: dict[str, Tensor],
    rest: dict[str, Tensor],
) -> dict[str, Tensor]:
    n, r = rows.shape[:2]
    found = {name: p.new_zeros(n, r, *p.shape) for name, p in parameters.items()}
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    index = torch.arange(n, device=_device_of(inputs))
    for i in range(n):
        logits = call_with(model, rest | leaves, take(inputs, index[i : i + 1]))[0]
        if not logits.requires_grad:
            continue
        for j in range(r):
            gradients = torch.autograd.grad(
                logits,
                list(leaves.values()),
                grad_outputs=rows[i, j].to(logits.dtype),
                retain_graph=j + 1 < r,
                allow_unused=True,
            )
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    found[name][i, j] = gradient.to_dense()
    return found
