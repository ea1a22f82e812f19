"""A network by name with the weights of a checkpoint, its number of classes read off its head."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.models import build_model
from fishermask_fast.network import find_head

NESTED = ("state_dict", "model_state_dict", "model")
# What DataParallel, torch.compile and Lightning put before the names.
PREFIXES = ("module.", "_orig_mod.", "model.")


def load_model(name: str, checkpoint: Path, size: int) -> nn.Module:
    """A trained network in eval mode.

    Args:
        name: Name for ``build_model``.
        checkpoint: A file of ``torch.save(model.state_dict(), ...)``, or of a dictionary that holds
            it. Nothing but tensors and plain values is read from it.
        size: Side of an image.

    Raises:
        ValueError: The file cannot be read, is no checkpoint, or is one of another network.
    """
    state = _read(checkpoint)
    with torch.device("meta"):
        head = find_head(build_model(name, 2, (3, size, size)), torch.empty(1, 3, size, size))
    if not isinstance(head, str):
        raise ValueError(f"{name} has no layer as its head, whose size tells the classes")
    weight = state.get(f"{head}.weight")
    if weight is None or weight.ndim < 2 or weight.shape[0] < 2:
        raise ValueError(
            f"{checkpoint} is no checkpoint of {name}: it has no {head}.weight of two or more rows"
        )
    model = build_model(name, weight.shape[0], (3, size, size))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} is no checkpoint of {name}: {error}") from error
    return model.eval()


def _read(checkpoint: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"cannot read {checkpoint} as a checkpoint (torch.save of a state_dict): {error}"
        ) from error
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{checkpoint} must hold a state_dict; got {type(content).__name__}")
    state = dict(content)
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
