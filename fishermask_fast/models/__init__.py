"""Networks by name, untrained: small ones of ours, and torchvision's classifiers.

Rooms: networks (all of them by name, and how large a mask each has by default), transformers (a
small Vision Transformer), devices (where they compute). May import: network and below.
"""

from __future__ import annotations

from fishermask_fast.models.devices import find_device
from fishermask_fast.models.networks import (
    TINY_MODELS,
    build_model,
    default_model,
    resnet18_small,
)

__all__ = [
    "TINY_MODELS",
    "build_model",
    "default_model",
    "find_device",
    "resnet18_small",
]
