"""A network by name with the weights of a checkpoint, its number of classes read off its head."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from fishermask_fast.labeling.weights import SHOWN, Weights, find_weights
from fishermask_fast.models import build_model
from fishermask_fast.network import find_head

logger = logging.getLogger(__name__)


def load_model(name: str, checkpoint: Path, size: int) -> nn.Module:
    """A trained network in eval mode.

    Args:
        name: Name for ``build_model``.
        checkpoint: A file of ``torch.save`` or of safetensors that holds the network's state_dict,
            itself or in dictionaries, its names with or without prefixes. Nothing but tensors and
            plain values is read from it.
        size: Side of an image.

    Raises:
        ValueError: The file cannot be read, is no checkpoint, or is one of another network.
    """
    sketch = _sketch(name, size)
    device = next(sketch.parameters()).device
    head = find_head(sketch, torch.zeros(1, 3, size, size, device=device))
    if not isinstance(head, str):
        raise ValueError(f"{name} has no layer as its head, whose size tells the classes")
    found = find_weights(checkpoint, sketch.state_dict().keys(), name)
    weight = found.tensors.get(f"{head}.weight")
    if weight is None or weight.ndim < 2 or weight.shape[0] < 2:
        raise ValueError(
            f"{checkpoint} is no checkpoint of {name}: it has no {head}.weight of two or more rows"
        )
    model = build_model(name, weight.shape[0], (3, size, size))
    _check_shapes(checkpoint, name, found, model)
    model.load_state_dict(found.tensors)
    _tell(checkpoint, found)
    return model.eval()


def _sketch(name: str, size: int) -> nn.Module:
    """The network without values, or with them where it cannot be made without."""
    try:
        with torch.device("meta"):
            return build_model(name, 2, (3, size, size)).eval()
    except ValueError:
        raise
    # RegNets round their widths by way of tensors' values, which nothing on this device has.
    except (RuntimeError, NotImplementedError):
        return build_model(name, 2, (3, size, size)).eval()


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
            f"{', '.join(differ[:SHOWN])}{', ...' * (len(differ) > SHOWN)}"
        )


def _tell(checkpoint: Path, found: Weights) -> None:
    """Say what was not as plain as it could be."""
    said = []
    if found.where:
        said.append(f"read from {found.where}")
    if found.taken_off:
        said.append(f"{found.taken_off} taken off the names")
    if found.left_out:
        some = ", ".join(found.left_out[:SHOWN]) + ", ..." * (len(found.left_out) > SHOWN)
        said.append(f"{len(found.left_out):,} tensors left out ({some})")
    if found.also:
        said.append(f"{', '.join(found.also)} would fit as well")
    if said:
        logger.warning("%s: %s", checkpoint, "; ".join(said))
