"""The greedy engine: pick what most lowers tr(M^-1 F), by rank-r updates of all scores.

Rooms in reading order: inputs (what is asked for), option_checks, problem (M and F), greedy (picks,
then removals), result (Selection), blocks (of picks, each verified by one pass), device_blocks (the
same, made by a GPU), state (A and B of every sample, and a block's four steps), updating (rank
updates of it, at once or one at a time), candidates (those of this process), copies (of which equal
ones are taken together), leading (who leads a block), choosing (who of them wins), alike (which of
many near copies may), directions (U and W of a pick), precision (the precision policy), rules (who
may be picked, and what gains count), log_det (log det M for tr(M^-1 F)), scores (all scores along a
selection). May import: factors, ops, plotting, progress, checks, arrays, memory, triangles; no
network.
"""

from __future__ import annotations

from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.greedy import select_greedily
from fishermask_fast.engine.inputs import (
    Options,
    as_source,
    check_device,
    check_matrices,
    computable,
    mean_fisher,
    runs_on,
)
from fishermask_fast.engine.leading import best
from fishermask_fast.engine.option_checks import (
    auto_prior,
    check_clusters,
    check_criterion,
    check_gains,
    check_prior,
    check_samples,
)
from fishermask_fast.engine.precision import PrecisionWarning
from fishermask_fast.engine.result import Selection
from fishermask_fast.engine.rules import Limits, Rules
from fishermask_fast.engine.scores import scores_along
from fishermask_fast.engine.state import Fresh, Leaders, Report, State, Updates

__all__ = [
    "Fresh",
    "Leaders",
    "Limits",
    "LocalCandidates",
    "Options",
    "PrecisionWarning",
    "Report",
    "Rules",
    "Selection",
    "State",
    "Updates",
    "as_source",
    "auto_prior",
    "best",
    "check_clusters",
    "check_criterion",
    "check_device",
    "check_gains",
    "check_matrices",
    "check_prior",
    "check_samples",
    "computable",
    "select_greedily",
    "mean_fisher",
    "runs_on",
    "scores_along",
]
