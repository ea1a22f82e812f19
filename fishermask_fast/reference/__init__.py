"""What every fast path must equal: each formula written out in plain torch, at any floating dtype.

The selection picks, n_select times, the unpicked sample x with the largest

    score(x) = tr( V_x M^-1 F M^-1 V_x^T A_x^-1 ),   A_x = I + V_x M^-1 V_x^T

and adds its V_x^T V_x to M. Nothing is carried from one pick to the next but M^-1, and nothing
here is meant to be quick.

Rooms: selection (greedy picks), targets (whose uncertainty, at what prior), steps (what the ops
compute), gradients (per-sample gradients of each likelihood). May import: nothing of ours.
"""

from __future__ import annotations

from fishermask_fast.reference.gradients import (
    bernoulli_rows,
    conv2d_weight_gradients,
    fisher_diagonal,
    gaussian_rows,
    likelihood_gradients,
    linear_weight_gradients,
    per_sample_gradients,
)
from fishermask_fast.reference.selection import (
    change_precision,
    initial_precision,
    log_det_scores,
    scores,
    select,
)
from fishermask_fast.reference.steps import (
    inverse_products,
    pick_block,
    pick_update,
    score_update,
)
from fishermask_fast.reference.targets import (
    auto_prior,
    balanced_weights,
    class_weights,
    target_fisher,
    top_class_rows,
    uncovered_weights,
)

__all__ = [
    "auto_prior",
    "balanced_weights",
    "bernoulli_rows",
    "change_precision",
    "class_weights",
    "conv2d_weight_gradients",
    "fisher_diagonal",
    "gaussian_rows",
    "initial_precision",
    "inverse_products",
    "likelihood_gradients",
    "linear_weight_gradients",
    "log_det_scores",
    "per_sample_gradients",
    "pick_block",
    "pick_update",
    "score_update",
    "scores",
    "select",
    "target_fisher",
    "top_class_rows",
    "uncovered_weights",
]
