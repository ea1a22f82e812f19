"""Which k of a network's P parameters count, by their scores f_i.

Rooms: mask (FisherMask), size (how many parameters), choice (which of them), heads (which of them
are the head's), checks (what a mask must be), mask_file (on disk). May import: network, plotting,
checks, memory, files.
"""

from __future__ import annotations

from fishermask_fast.masks.choice import METHODS, parts_of_tensors
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.masks.size import MaskSize, check_size, mask_size, size_of_mask

__all__ = [
    "FisherMask",
    "METHODS",
    "MaskSize",
    "check_size",
    "mask_size",
    "parts_of_tensors",
    "size_of_mask",
]
