"""Rows R_x of the outputs' Fisher matrix: V_x = R_x J_x, J_x the Jacobian of the outputs.

Rooms: categorical (softmax: R^T R = diag(p) - p p^T). May import: checks.
"""

from __future__ import annotations

from fishermask_fast.likelihoods.categorical import check_rows, make_rows, sampled_rows

__all__ = [
    "check_rows",
    "make_rows",
    "sampled_rows",
]
