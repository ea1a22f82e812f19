"""Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F), exactly and fast.

``fast_select`` picks from per-sample gradients; ``FisherMaskSelector`` goes all the way from a
model and a pool. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fishermask_fast.version import __version__

if TYPE_CHECKING:
    from fishermask_fast.engine import PrecisionWarning
    from fishermask_fast.factors import (
        GradientFactors,
        StoredFactors,
        factors_from_embeddings,
        save_factors,
    )
    from fishermask_fast.gradients import fisher_diagonal, masked_gradients
    from fishermask_fast.inspection import ModelReport, inspect_model
    from fishermask_fast.masks import FisherMask
    from fishermask_fast.ops import BuildInfo, build_info
    from fishermask_fast.selection import Selection, fast_select, select_batch
    from fishermask_fast.selector import FisherMaskSelector

__all__ = [
    "BuildInfo",
    "FisherMask",
    "FisherMaskSelector",
    "GradientFactors",
    "ModelReport",
    "PrecisionWarning",
    "Selection",
    "StoredFactors",
    "__version__",
    "build_info",
    "factors_from_embeddings",
    "fast_select",
    "fisher_diagonal",
    "inspect_model",
    "masked_gradients",
    "save_factors",
    "select_batch",
]

_WINGS = {
    "BuildInfo": "ops",
    "FisherMask": "masks",
    "FisherMaskSelector": "selector",
    "GradientFactors": "factors",
    "PrecisionWarning": "engine",
    "Selection": "selection",
    "StoredFactors": "factors",
    "build_info": "ops",
    "factors_from_embeddings": "factors",
    "fast_select": "selection",
    "ModelReport": "inspection",
    "fisher_diagonal": "gradients",
    "inspect_model": "inspection",
    "masked_gradients": "gradients",
    "save_factors": "factors",
    "select_batch": "selection",
}


def __getattr__(name: str) -> object:
    if name not in _WINGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WINGS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
