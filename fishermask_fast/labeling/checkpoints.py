"""A network by name with the weights of a checkpoint, its number of classes read off its tensors.

The network is made twice without values, for two classes and for three: where a tensor's shape
differs between them, the checkpoint's own shape tells the number of classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fishermask_fast.checks import listed
from fishermask_fast.labeling.weights import SHOWN, Weights, find_weights
from fishermask_fast.models import (
    build_model,
    is_own,
    own_function,
    own_result,
    takes_count,
    torchvision_model,
)

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]
Build = Callable[[int], nn.Module]
Prepare = Callable[[list[Any]], Any]


def load_weights(
    name: str, checkpoint: Path, shape: tuple[int, ...]
) -> tuple[nn.Module, Prepare | None]:
    """A trained network in eval mode, and what prepares samples for it where its maker says so.

    Args:
        name: Name for ``build_model``.
        checkpoint: A file of ``torch.save`` or of safetensors that holds the network's state_dict,
            itself or in dictionaries, its names with or without prefixes. Nothing but tensors and
            plain values is read from it.
        shape: Of a sample.

    Raises:
        ValueError: The file cannot be read, is no checkpoint, or is one of another network.
    """
    prepare: Prepare | None = None
    error: ValueError | None = None
    for build in _builds(name, shape):
        if is_own(name):
            model, prepare, found = _own(name, checkpoint)
        else:
            two, three = _shapes(build, 2), _shapes(build, 3)
            try:
                found = find_weights(checkpoint, two.keys(), name)
            except ValueError as wrong:
                error = error or wrong
                continue
            model = build(_count(checkpoint, name, found, two, three))
        _check_shapes(checkpoint, name, found, model)
        model.load_state_dict(found.tensors, strict=False)
        _tell(checkpoint, found)
        return model.eval(), prepare
    assert error is not None
    raise error


def _builds(name: str, shape: tuple[int, ...]) -> Iterator[Build]:
    """Ways to make a network; of two of torchvision's, without auxiliary heads as well."""
    yield lambda n: build_model(name, n, shape)
    if name in ("googlenet", "inception_v3"):
        yield lambda n: torchvision_model(name, n, shape, aux_logits=False)


def _own(name: str, checkpoint: Path) -> tuple[nn.Module, Prepare | None, Weights]:
    """A network of one's own function, which is made for as many classes as the checkpoint has."""
    if takes_count(own_function(name)) is None:
        model, prepare = own_result(name, None)
        return model, prepare, find_weights(checkpoint, model.state_dict().keys(), name)
    two, three = (_shapes(lambda n: own_result(name, n)[0], n) for n in (2, 3))
    found = find_weights(checkpoint, two.keys(), name)
    model, prepare = own_result(name, _count(checkpoint, name, found, two, three))
    return model, prepare, found


def _shapes(build: Build, n_classes: int) -> Shapes:
    """Of the network's tensors, made without values, or with them where that cannot be."""
    model: nn.Module | None = None
    # Some round their widths by way of tensors' values, which nothing on this device has; somebody
    # else's function may fail there with anything.
    with suppress(Exception), torch.device("meta"):
        model = build(n_classes)
    if model is None:
        with torch.random.fork_rng(devices=[]):
            model = build(n_classes)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _count(checkpoint: Path, name: str, found: Weights, two: Shapes, three: Shapes) -> int:
    """The number of classes of a checkpoint."""
    for key, shape in two.items():
        value = found.tensors.get(key)
        for place, (small, large) in enumerate(zip(shape, three[key], strict=True)):
            if small == large or value is None:
                continue
            if value.ndim != len(shape) or value.shape[place] < small:
                raise ValueError(
                    f"{checkpoint} is no checkpoint of {name}: its {key} is {tuple(value.shape)}, "
                    "which is not of two or more classes"
                )
            return 2 + (value.shape[place] - small) // (large - small)
    raise ValueError(f"{name} has no tensor whose size tells the classes")


def _check_shapes(checkpoint: Path, name: str, found: Weights, model: nn.Module) -> None:
    own = model.state_dict()
    differ = [
        f"{key} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
        for key, value in found.tensors.items()
        if value.shape != own[key].shape
    ]
    if differ:
        count = "1 tensor has" if len(differ) == 1 else f"{len(differ):,} tensors have"
        raise ValueError(
            f"{checkpoint} is no checkpoint of {name}: {count} a size mismatch: "
            f"{listed(differ, SHOWN)}"
        )


def _tell(checkpoint: Path, found: Weights) -> None:
    """Say what was not as plain as it could be."""
    said = []
    if found.where:
        said.append(f"read from {found.where}")
    if found.taken_off:
        said.append(f"{found.taken_off} taken off the names")
    if found.left_out:
        some = listed(found.left_out, SHOWN)
        said.append(f"{len(found.left_out):,} tensors left out ({some})")
    if found.also:
        said.append(f"{', '.join(found.also)} would fit as well")
    if said:
        logger.warning("%s: %s", checkpoint, "; ".join(said))
