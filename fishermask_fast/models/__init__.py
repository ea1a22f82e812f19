"""Networks by name, untrained: small ones of ours, torchvision's and timm's, and one's own.

Rooms: networks (all of them by name), named (those of others), transformers (a small Vision
Transformer), devices (where they compute). May import: options.
"""

from __future__ import annotations

from fishermask_fast.models.devices import find_device
from fishermask_fast.models.named import (
    HF,
    TIMM,
    is_own,
    own_function,
    own_result,
    takes_count,
    timm_input,
    torchvision_model,
)
from fishermask_fast.models.networks import (
    TINY_MODELS,
    build_model,
    default_model,
    resnet18_small,
)

__all__ = [
    "HF",
    "TIMM",
    "is_own",
    "own_function",
    "own_result",
    "takes_count",
    "timm_input",
    "torchvision_model",
    "TINY_MODELS",
    "build_model",
    "default_model",
    "find_device",
    "resnet18_small",
]
