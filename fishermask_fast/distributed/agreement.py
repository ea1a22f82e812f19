"""What ranks must have in common: arguments, model, data and packages, compared before any work.

Each rank describes what it was called with in a few words, a digest for what is large; all ranks
get all descriptions, so that all of them raise the same error, or none does.
"""

from __future__ import annotations

import numbers
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fishermask_fast.arrays import as_tensor, digest
from fishermask_fast.checks import is_integer
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.distributed.functions import attributes, contents
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import Inputs, unwrap
from fishermask_fast.version import __version__


def check_same(exchange: Exchange, values: Mapping[str, str | None]) -> None:
    """Raise, on all ranks, where what two ranks state under one name differs.

    Args:
        exchange: with the other ranks.
        values: descriptions by name; None where there is nothing to compare.

    Raises:
        ValueError: names what differs, and the ranks.
    """
    told = exchange.everyone(dict(values))
    for name in dict.fromkeys(name for one in told for name in one):
        by_value: dict[str, list[int]] = {}
        for rank, one in enumerate(told):
            value = one.get(name)
            if value is not None:
                by_value.setdefault(value, []).append(rank)
        if len(by_value) > 1:
            found = "; ".join(f"{value} on {_ranks(who)}" for value, who in by_value.items())
            raise ValueError(
                "all ranks must be called with the same arguments, model, kinds of data and "
                f"packages; {name} is {found}"
            )


def check_apart(exchange: Exchange, name: str, value: str | None) -> None:
    """Raise, on all ranks, where two ranks state the same, None apart.

    Raises:
        ValueError: names the ranks.
    """
    told = exchange.everyone(value)
    for rank, other in enumerate(told):
        first = told.index(other)
        if other is not None and first != rank:
            raise ValueError(
                f"{name} must be another one on each rank; {other} is that of ranks {first} and "
                f"{rank}"
            )


def packages() -> dict[str, str | None]:
    """Versions of the packages that decide numbers, as arguments to compare."""
    found = {
        "fishermask_fast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        # Of another one the code of one function is another.
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    return {f"the version of {name}": str(version) for name, version in found.items()}


def described(value: object) -> str | None:
    """A value in a few words, the same for equal values of whatever type of number or array."""
    if isinstance(value, FisherMask):
        head = "" if not value.head_names else f" {value.head_names}"
        text = str((dict(value.shapes), value.method)) + head
        return f"a mask with digest {digest(value.indices.items(), text)}"
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if is_integer(value):
        return str(int(value))  # type: ignore[call-overload]
    if isinstance(value, numbers.Real):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    if value is None or isinstance(value, str):
        return repr(value)
    array = as_tensor("value", value)
    if isinstance(array, Tensor):
        kind = f"{array.dtype} {tuple(array.shape)}".removeprefix("torch.")
        return f"{kind} with digest {digest([('', array)])}"
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    return f"{name} with digest {digest([], repr(contents(value)))}" if callable(value) else name


def described_device(value: Any) -> str | None:
    """The type of a device, whose number is each rank's own; None where none was asked for."""
    return None if value is None else repr(torch.device(value).type)


def described_model(model: nn.Module) -> str:
    """The class of a model, and a digest of its modules, parameters and buffers, in order.

    Of modules their plain attributes count too, such as a slope.
    """
    net = unwrap(model)
    modules = attributes(net)
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    tensors = (*net.named_parameters(), *net.named_buffers())
    return f"a {type(net).__name__} with digest {digest(tensors, str((modules, frozen)))}"


def described_inputs(inputs: Inputs) -> str:
    """What kind of thing a sample is, though not its sizes, which may be its own."""

    def kind(value: object) -> str:
        if not isinstance(value, Tensor):
            return type(value).__name__
        return f"{value.dtype} of {value.ndim} axes".removeprefix("torch.")

    if isinstance(inputs, Tensor):
        return f"batches of {kind(inputs)}"
    return "batches of " + str({name: kind(inputs[name]) for name in sorted(inputs)})


def _ranks(who: list[int]) -> str:
    return f"rank {who[0]}" if len(who) == 1 else f"ranks {', '.join(map(str, who))}"
