"""From a model and a pool to a batch: mask, masked gradients, Fisher matrices, selection.

A query picks the batch that most reduces tr(M^-1 F) on the k parameters of its mask, where

    F   = (1/N)   sum over all samples, labeled and unlabeled, of V_x^T V_x
    F_L = (1/n_L) sum over the labeled samples of V_x^T V_x,   M = lambda I + F_L n_L / (n_L + K)

Rooms in reading order: selector (the class), parameters (what it was given), aims (of M, F, gains),
presets (of what is left open), wishes (for candidates), course (of a query), query (its steps),
targets (weights), labels (counts), counting (memory, seconds), known (where gradients are there
already). May import: estimates, selection, distributed, engine, gradients, masks, network, factors,
likelihoods, checks, arrays.
"""

from __future__ import annotations

from fishermask_fast.selector.aims import Aim
from fishermask_fast.selector.known import Answer, Labeled, Seen, query_known
from fishermask_fast.selector.labels import check_labels
from fishermask_fast.selector.parameters import MASKS, unread_options
from fishermask_fast.selector.selector import FisherMaskSelector
from fishermask_fast.selector.targets import (
    balanced_weights,
    scarce_class_weights,
    uncovered_weights,
)
from fishermask_fast.selector.wishes import Wishes, split_options

__all__ = [
    "Aim",
    "Answer",
    "FisherMaskSelector",
    "Labeled",
    "MASKS",
    "Seen",
    "Wishes",
    "balanced_weights",
    "check_labels",
    "query_known",
    "scarce_class_weights",
    "split_options",
    "uncovered_weights",
    "unread_options",
]
