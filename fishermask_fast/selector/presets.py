"""What options are where nobody has set them: as published, or as measurements advise.

    published     lambda = 1                F the mean over all samples          Gul et al. 2024
    recommended   lambda = 0.1 tr(F) / k    F with each class alike (balanced)

lambda = 1 is large or small by the units of the gradients, and the mean over a pool is that of its
common classes. A preset is exact whichever it is, and fills only what was left None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fishermask_fast.checks import LAMB, check_choice
from fishermask_fast.likelihoods import likelihood_of

PUBLISHED, RECOMMENDED = "published", "recommended"
PRESETS = (PUBLISHED, RECOMMENDED)


def fill(options: Mapping[str, Any], *, by_factors: bool = False) -> dict[str, Any]:
    """Options with what their preset says for `lamb` and `eval_weights` where these are None.

    Where a prior_precision is given, lamb stays out of it; where nothing can be balanced (no
    probabilities of classes, no F), eval_weights do.

    Args:
        options: some of FisherMaskSelector's by name; `preset` may be missing.
        by_factors: whether uncertainty is to fall for factors, which have no probabilities.

    Returns:
        All of them but `preset`.

    Raises:
        TypeError, ValueError: the preset is none, or the likelihood.
    """
    filled = dict(options)
    preset = filled.pop("preset", PUBLISHED)
    check_choice("preset", preset, PRESETS)
    if filled.get("lamb") is None:
        automatic = preset == RECOMMENDED and filled.get("prior_precision") is None
        filled["lamb"] = "auto" if automatic else LAMB
    if preset == RECOMMENDED and filled.get("eval_weights") is None and not by_factors:
        assumed = likelihood_of(filled.get("likelihood", "categorical"))
        if assumed.name == "categorical" and filled.get("criterion", "trace") == "trace":
            filled["eval_weights"] = "balanced"
    return filled
