"""A query whose gradients are there already, as adapters and files of embeddings have them.

What FisherMaskSelector asks its model, these ask a classifier of their own framework: its factors,
and probabilities and features only where an option needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.engine import Selection, check_gains
from fishermask_fast.factors import GradientFactors, check_weights
from fishermask_fast.selection import select_batch
from fishermask_fast.selector.aims import Aim
from fishermask_fast.selector.labels import check_labels
from fishermask_fast.selector.targets import (
    balanced_weights,
    scarce_class_weights,
    uncovered_weights,
)
from fishermask_fast.selector.wishes import Wishes


@dataclass(frozen=True)
class Seen:
    """Samples as a classifier sees them.

    Attributes:
        factors: V of the n samples.
        probabilities: (n, C) of their classes; called where an option asks.
        features: (n, d), what distances are taken of; likewise.
    """

    factors: GradientFactors
    probabilities: Callable[[], Tensor]
    features: Callable[[], Tensor]


@dataclass(frozen=True)
class Labeled:
    """The labeled samples.

    Attributes:
        n: n_L.
        fisher: (k, k) F_L; None where there are none.
        features: (n_L, d); called where an option asks.
        labels: (n_L,) classes; None where nobody knows them.
    """

    n: int = 0
    fisher: Tensor | None = None
    features: Callable[[], Tensor] = field(default=lambda: torch.empty(0, 0))
    labels: Any = None


@dataclass(frozen=True)
class Answer:
    """A selection, and what it was made of: the arguments of scores_along."""

    selection: Selection
    fisher: Tensor | None
    gains: Tensor | None


def query_known(
    aim: Aim,
    wishes: Wishes,
    n_select: int,
    pool: Seen,
    labeled: Labeled,
    *,
    mean: Callable[[], Tensor] | None = None,
    eval_data: Seen | None = None,
    progress: bool = False,
) -> Answer:
    """Pick `n_select` samples of a pool.

    Args:
        aim: what is wanted, checked.
        wishes: what is asked of single samples of the pool.
        n_select: K.
        pool: the candidates, those that are barred among them.
        labeled: the labeled samples.
        mean: F over all samples; None for the mean over the pool's and the labeled ones.
        eval_data: whose uncertainty is to fall instead.
        progress: show a bar.

    Raises:
        TypeError, ValueError: as FisherMaskSelector.query.
    """
    n = len(pool.factors)
    aim.check_query(eval_data is not None)
    wishes.check(aim, n_select, n)
    fisher = None
    if eval_data is not None or aim.eval_weights is not None:
        aimed = pool if eval_data is None else eval_data
        fisher = aimed.factors.fisher(weights=_eval_weights(aim, aimed, labeled))
    elif aim.criterion == "trace":
        fisher = pool.factors.fisher() if mean is None else mean()
        if mean is None and labeled.fisher is not None:
            fisher = torch.lerp(fisher, labeled.fisher.to(fisher), labeled.n / (labeled.n + n))
    gains = check_gains(wishes.gain_weights, n)
    if aim.class_weight is not None:
        scarcity = _scarcity(pool, labeled)
        gains = scarcity if gains is None else gains * scarcity
    selection = select_batch(
        pool.factors,
        n_select,
        fisher,
        labeled.fisher,
        lamb=aim.lamb,
        prior_precision=aim.prior_precision,
        criterion=aim.criterion,
        gain_weights=gains,
        pending=wishes.pending,
        exclude=wishes.exclude,
        cluster_ids=wishes.cluster_ids,
        max_per_cluster=aim.max_per_cluster,
        n_labeled=labeled.n,
        backward_steps=aim.backward_steps,
        progress=progress,
    )
    return Answer(selection, fisher, gains)


def _eval_weights(aim: Aim, aimed: Seen, labeled: Labeled) -> Tensor | None:
    asked = aim.eval_weights
    if not isinstance(asked, str):
        factors = aimed.factors
        return check_weights(asked, len(factors), factors.device, "eval_weights")
    if asked == "balanced":
        return balanced_weights(aimed.probabilities())
    features = aimed.features()
    known = labeled.features() if labeled.n else features[:0]
    return uncovered_weights(features, known)


def _scarcity(pool: Seen, labeled: Labeled) -> Tensor:
    p = pool.probabilities()
    n_classes = p.shape[1]
    if labeled.labels is None and labeled.n:
        raise ValueError("class_weight='balanced' needs labels, the classes of the labeled samples")
    labels = [] if labeled.labels is None else labeled.labels
    counts = check_labels(labels, labeled.n, n_classes).bincount(minlength=n_classes)
    return scarce_class_weights(p, counts).cpu()
