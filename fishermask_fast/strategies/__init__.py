"""Who picks the next batch: functions (model, pool, labeled, n, seed, options) -> Picks.

Rooms: interface (what they take and give), fisher (tr(M^-1 F): FisherMask, BAIT), uncertainty
(entropy, margin, least confidence), diversity (k-center greedy, k-means++), herding (UHerding),
typical (TypiClust), filtered (FisherMask's candidates, UHerding's picks), registry (all by name),
estimating (what a query will take). A new strategy is a function, a line in registry and its name
in options/picking. May import: selector, estimates, distributed, masks, network,
options, progress.
"""

from __future__ import annotations

from fishermask_fast.strategies.estimating import Forecast, announce, estimated
from fishermask_fast.strategies.interface import Picks
from fishermask_fast.strategies.registry import (
    ANY_LIKELIHOOD,
    STRATEGIES,
    check,
    check_samples,
    pick,
    unread,
)
from fishermask_fast.strategies.uncertainty import predict

__all__ = [
    "ANY_LIKELIHOOD",
    "Forecast",
    "Picks",
    "STRATEGIES",
    "announce",
    "check",
    "check_samples",
    "estimated",
    "pick",
    "predict",
    "unread",
]
