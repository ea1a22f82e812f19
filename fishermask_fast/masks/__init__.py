"""Which k of a network's P parameters count, by their scores f_i.

Rooms: mask (FisherMask), checks (what a mask must be), mask_file. May import: network and below.
"""

from __future__ import annotations

from fishermask_fast.masks.mask import METHODS, FisherMask, check_fraction

__all__ = [
    "FisherMask",
    "METHODS",
    "check_fraction",
]
