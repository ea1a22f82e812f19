"""Labeled samples: as they are stored, how they are read, and sets of them by name.

Rooms: samples (stored, and seen through a transform), images, tables (numbers and texts), imbalance
(how many of each class), pools (a pool and a test set by name). May import: options.
"""

from __future__ import annotations

from fishermask_fast.datasets.images import evaluation_transform
from fishermask_fast.datasets.pools import load_data
from fishermask_fast.datasets.samples import (
    FolderImages,
    Label,
    LabeledSamples,
    PoolAndTest,
    Source,
)

__all__ = [
    "FolderImages",
    "Label",
    "LabeledSamples",
    "PoolAndTest",
    "Source",
    "evaluation_transform",
    "load_data",
]
