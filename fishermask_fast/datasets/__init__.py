"""Labelled samples: as they are stored, how they are read, and sets of them by name.

Rooms: samples (stored, and seen through a transform), images, tables (numbers and texts), imbalance
(how many of each class), pools (a pool and a test set by name). May import: nothing of ours.
"""

from __future__ import annotations

from fishermask_fast.datasets.images import PHOTO_MEAN, PHOTO_STD, evaluation_transform
from fishermask_fast.datasets.pools import DataOptions, LoopData, load_data
from fishermask_fast.datasets.samples import FolderImages, LabelledSamples, Source

__all__ = [
    "DataOptions",
    "FolderImages",
    "LabelledSamples",
    "LoopData",
    "PHOTO_MEAN",
    "PHOTO_STD",
    "Source",
    "evaluation_transform",
    "load_data",
]
