"""Rows R_x of the outputs' Fisher matrix: V_x = R_x J_x, J_x the Jacobian of the outputs.

Rooms in reading order: likelihood (what each must say), categorical (softmax: R^T R = diag(p) - p
p^T), bernoulli (R = diag(sqrt(p (1 - p)))), gaussian (R = I), custom (a function of the user's),
names (which of them an argument stands for), top_class (one row a sample, by name). May import:
checks.
"""

from __future__ import annotations

from fishermask_fast.likelihoods.bernoulli import Bernoulli
from fishermask_fast.likelihoods.custom import RowsFunction, different_likelihoods
from fishermask_fast.likelihoods.likelihood import Likelihood
from fishermask_fast.likelihoods.names import LIKELIHOODS, LikelihoodLike, likelihood_of
from fishermask_fast.likelihoods.top_class import ROWS, check_rows, likelihood_with

__all__ = [
    "Bernoulli",
    "LIKELIHOODS",
    "Likelihood",
    "LikelihoodLike",
    "ROWS",
    "RowsFunction",
    "check_rows",
    "different_likelihoods",
    "likelihood_of",
    "likelihood_with",
]
