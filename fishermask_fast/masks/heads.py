"""Which parameters are the head's, of a model or among named shapes."""

from __future__ import annotations

from torch import nn

from fishermask_fast.masks.checks import Shapes
from fishermask_fast.network import (
    Head,
    Inputs,
    checked_inputs,
    find_head,
    head_names,
    head_parameters,
    is_under,
    last_layers,
)


def head_of(
    model: nn.Module, head: Head | None, inputs: Inputs | None, *, required: bool
) -> tuple[str, ...]:
    """The trainable parameters of a model's head.

    Raises:
        ValueError: there is no such head, or where required none at all or a frozen one.
    """
    if inputs is not None:
        inputs = checked_inputs(model, inputs)
    if head is None:
        head = find_head(model, inputs)
    if head is None:
        if required:
            raise ValueError(
                "the model has no trainable nn.Linear to take as its head; name its head with "
                "head=..., or use keep_head=False"
            )
        return ()
    names = head_parameters(model, head)
    if not names and required:
        found = " is unknown"
        if head != ():
            found = f", {head!r}, is frozen, so that no gradient is taken there"
        raise ValueError(
            f"the head{found}; unfreeze it or name another with head=..., or use another mask or "
            "keep_head=False"
        )
    return names


def head_in(shapes: Shapes, head: Head | None, *, required: bool) -> tuple[str, ...]:
    """The parameters of the head `head` among these, or of the one module with a matrix as weight.

    Raises:
        TypeError: the head is no name and no tuple of names.
        ValueError: there is no such head, or where required none or several may be it.
    """
    if head is None:
        matrices = [
            name.rpartition(".")[0]
            for name, shape in shapes.items()
            if name.rpartition(".")[2] == "weight" and len(shape) == 2
        ]
        if len(matrices) != 1:
            if not required:
                return ()
            if not matrices:
                raise ValueError(
                    "no tensor looks like a head (a weight of two dimensions); name the head "
                    "module or use keep_head=False"
                )
            raise ValueError(
                f"several layers may be the head: {last_layers(matrices)}; name it with head=..., "
                "or give model= and inputs= so that it is found, or use keep_head=False"
            )
        head = matrices[0]
    parts = head_names(head)
    names = tuple(name for name in shapes if any(is_under(name, part) for part in parts))
    if not names:
        raise ValueError(f"head {head!r} has no trainable parameters; there are {list(shapes)}")
    return names
