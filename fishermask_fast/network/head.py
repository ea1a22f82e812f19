"""Which layer is the head: what turns the last features h into logits, z = W h + b."""

from __future__ import annotations

from torch import nn

from fishermask_fast.network.evaluation import unwrap


def find_head(model: nn.Module) -> str | None:
    """Name of the last nn.Linear with a trainable weight, in the order of registration."""
    last = None
    for name, module in unwrap(model).named_modules():
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear) else None
        if weight is not None and weight.requires_grad:
            last = name
    return last
