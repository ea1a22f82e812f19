"""One selection by several processes, with the picks of one.

Rooms: exchange (what ranks tell each other), agreement (what they must have in common), functions
(what a function is made of), parts (which samples are whose), candidates (a rank's shard of the
pool), shards (the selection). May import: engine, masks, network, factors, checks, arrays.
"""

from __future__ import annotations

from fishermask_fast.distributed.agreement import (
    described,
    described_device,
    described_model,
    packages,
)
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.distributed.parts import NOTHING, Part, Ranks, is_empty
from fishermask_fast.distributed.shards import Given, select_from_shards

__all__ = [
    "Exchange",
    "Given",
    "NOTHING",
    "Part",
    "Ranks",
    "described",
    "described_device",
    "described_model",
    "packages",
    "is_empty",
    "select_from_shards",
]
