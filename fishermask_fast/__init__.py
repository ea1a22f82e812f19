"""Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F), exactly and fast.

``fast_select`` picks from per-sample gradients; ``FisherMaskSelector`` goes all the way from a
model and a pool.
"""

from __future__ import annotations

from fishermask_fast.embeddings import factors_from_embeddings
from fishermask_fast.factors import GradientFactors
from fishermask_fast.gradients import masked_gradients
from fishermask_fast.loading import BuildInfo, build_info
from fishermask_fast.mask import FisherMask, fisher_diagonal
from fishermask_fast.selection import Selection, fast_select, select_batch
from fishermask_fast.selector import FisherMaskSelector
from fishermask_fast.storage import StoredFactors, save_factors

__version__ = "0.1.0"

__all__ = [
    "BuildInfo",
    "FisherMask",
    "FisherMaskSelector",
    "GradientFactors",
    "Selection",
    "StoredFactors",
    "__version__",
    "build_info",
    "factors_from_embeddings",
    "fast_select",
    "fisher_diagonal",
    "masked_gradients",
    "save_factors",
    "select_batch",
]
