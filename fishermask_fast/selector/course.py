"""The course of one query: what all ranks agree on before any work, then step after step."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from fishermask_fast.checks import check_flag, check_path
from fishermask_fast.distributed import Ranks, described
from fishermask_fast.engine import check_gains, check_samples, runs_on
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import check_count
from fishermask_fast.selection import Selection, select_batch
from fishermask_fast.selector.counting import check_fits
from fishermask_fast.selector.labels import check_labels_of
from fishermask_fast.selector.parameters import Parameters
from fishermask_fast.selector.query import Query
from fishermask_fast.selector.wishes import Wishes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The arguments of a query; see FisherMaskSelector.query."""

    unlabeled: Any
    n_select: int
    labeled: Any
    progress: bool
    out: str | os.PathLike[str] | None
    eval_data: Any
    wishes: Wishes
    labels: Any

    @property
    def given(self) -> GradientFactors | StoredFactors | None:
        """Gradients whose uncertainty is to fall, where they are there already."""
        known = isinstance(self.eval_data, (GradientFactors, StoredFactors))
        return self.eval_data if known else None

    def in_words(self, own: Parameters) -> dict[str, str | None]:
        """What all ranks must have called the query with."""
        known = aimed = None
        if own.group is None:  # else a rank may have no samples of its own
            known = "None" if self.labeled is None else "given"
            aimed = "None" if self.eval_data is None else "given"
        return {
            "n_select": described(self.n_select),
            "labeled": known,
            "eval_data": aimed,
            "pending": described(check_samples("pending", self.wishes.pending)),
            "exclude": described(check_samples("exclude", self.wishes.exclude)),
        }


class Found(NamedTuple):
    """What a query came to."""

    selection: Selection
    mask: FisherMask
    fisher: Tensor | None
    labeled_fisher: Tensor | None


def prepare(own: Parameters, asked: Asked, defaults: Mapping[str, Any]) -> Query:
    """The query, once all ranks know that they were asked for the same and can do it.

    Args:
        own: the selector's parameters.
        asked: the query's.
        defaults: the selector's parameters where nothing is said.

    Raises:
        TypeError, ValueError: see FisherMaskSelector.query; on all ranks together.
    """
    data = {
        "unlabeled": asked.unlabeled,
        "labeled": asked.labeled,
        "eval_data": asked.eval_data,
    }
    ranks = Ranks.of(own.group, data)
    own = ranks.attempt(partial(own.filled, asked.given is not None))
    ranks.attempt(own.check)
    ranks.attempt(lambda: check_count("n_select", asked.n_select, optional=False))
    ranks.attempt(lambda: check_flag("progress", asked.progress))
    # On every rank, as all take part in an attempt.
    ranks.attempt(lambda: None if asked.out is None else check_path("out", asked.out))
    ranks.check_same(lambda: own.in_common() | asked.in_words(own))
    ranks.check_apart("out", None if asked.out is None else _place(asked.out))
    own.warn_of_ignored(defaults)
    given = asked.given
    aims = any(ranks.everyone(asked.eval_data is not None))
    ranks.attempt(lambda: own.aim.check_query(aims, given is not None, ranks.alone))
    progress = asked.progress and has_tqdm()
    query = Query.of(own, ranks, asked.unlabeled, asked.labeled, progress)
    if aims and given is None:
        query = replace(query, aim=ranks.part(asked.eval_data, "eval_data"))
        query.check_aim()
    pool, n_select = query.pool, asked.n_select
    if n_select > pool.n_total:
        raise ValueError(
            f"n_select must be at most the {pool.n_total} unlabeled samples; got {n_select}"
        )
    ranks.check_same(lambda: asked.wishes.in_words() if len(pool) else {})
    n_total = None if ranks.alone else pool.n_total
    ranks.attempt(lambda: asked.wishes.check(own.aim, n_select, len(pool), n_total))
    ranks.attempt(lambda: query.check_eval_weights(given))
    n_outputs = query.check_samples()
    scarce = own.class_weight is not None
    ranks.attempt(lambda: check_labels_of(query.known, asked.labels, n_outputs, wanted=scarce))
    query.warn()
    return query


def run(query: Query, asked: Asked) -> Found:
    """Mask, gradients, Fisher matrices, selection."""
    own, ranks, given = query.parameters, query.ranks, asked.given
    with query.timed("mask"):
        head = query.find_head()
        ranks.attempt(partial(check_fits, query, head, asked.out is not None, None))
        mask = query.make_mask(head)
    ranks.check_same(lambda: {"the mask of the query": described(mask)})
    ranks.attempt(partial(check_fits, query, head, asked.out is not None, mask))
    if given is not None and given.n_columns != len(mask):
        raise ValueError(
            f"eval_data must have the mask's {len(mask)} columns; got {given.n_columns}"
        )
    logger.info("mask: %r", mask)
    labeled_fisher = query.labeled_fisher(mask)
    with query.timed("gradients"):
        factors = ranks.attempt(partial(query.gradients, query.pool, mask, asked.out))
    with query.timed("fisher"):
        fisher = None
        if given is not None or query.aim.n_total or own.eval_weights is not None:
            fisher = query.target(factors, mask, given)
        elif own.criterion == "trace":
            fisher = query.fisher(factors, labeled_fisher, mask)
    with query.timed("selection"):
        selection = _select(query, asked, factors, fisher, labeled_fisher)
    return Found(selection, mask, fisher, labeled_fisher)


def _select(
    query: Query,
    asked: Asked,
    factors: GradientFactors | StoredFactors | None,
    fisher: Tensor | None,
    labeled_fisher: Tensor | None,
) -> Selection:
    own, ranks, pool, wishes = query.parameters, query.ranks, query.pool, asked.wishes
    gains = wishes.gain_weights
    if own.class_weight is not None:
        own_gains = check_gains(gains, len(pool))
        scarcity = query.scarcity(asked.labels)
        gains = scarcity if own_gains is None else scarcity * own_gains
    stored = isinstance(factors, StoredFactors)
    return select_batch(
        factors,
        asked.n_select,
        fisher,
        labeled_fisher,
        lamb=own.aim.lamb,
        prior_precision=own.prior_precision,
        criterion=own.criterion,
        gain_weights=gains if len(pool) else None,
        pending=wishes.pending,
        exclude=wishes.exclude,
        cluster_ids=wishes.cluster_ids if len(pool) else None,
        max_per_cluster=own.max_per_cluster,
        n_labeled=query.known.n_total,
        backward_steps=own.backward_steps,
        progress=query.progress,
        device=own.where if stored and runs_on(own.where) else None,
        group=ranks.group,
        sample_indices=None if ranks.alone else pool.places,
    )


def _place(out: str | os.PathLike[str]) -> str:
    """A file of this machine."""
    return f"{platform.node()}:{os.path.realpath(out)}"


def has_tqdm() -> bool:
    """Whether bars can be shown; says what they need where they cannot."""
    if importlib.util.find_spec("tqdm") is None:
        logger.warning("progress bars need tqdm: pip install tqdm, or query with progress=False")
        return False
    return True
