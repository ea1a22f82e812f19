"""Who picks the next batch: functions (model, pool, labeled, n, seed, options) -> Picks.

Rooms: interface (what they take and give), fisher (tr(M^-1 F): FisherMask, BAIT), uncertainty
(entropy, margin, least confidence), diversity (k-center greedy, k-means++), registry (all by name;
a new strategy is a function and a line there). May import: selector, gradients, masks, network.
"""

from __future__ import annotations

from fishermask_fast.strategies.interface import Picks
from fishermask_fast.strategies.registry import STRATEGIES, check, unread
from fishermask_fast.strategies.uncertainty import predict

__all__ = [
    "Picks",
    "STRATEGIES",
    "check",
    "predict",
    "unread",
]
