"""What a query needs, before it begins: bytes by part, and seconds a step from one batch."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from fishermask_fast.estimates import Estimate, Needs, activations_of, estimate, factor_numbers
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import (
    Head,
    Pool,
    compute_dtype,
    device_of,
    evaluating,
    input_dtype,
    to_model,
    trainable,
    unwrap,
)
from fishermask_fast.selector.parameters import BY_DIAGONAL
from fishermask_fast.selector.query import Query

_TIMED = 16  # samples of the batch that is timed


def check_fits(query: Query, head: Head | None, stored: bool, mask: FisherMask | None) -> None:
    """Raise where this process's part of a query does not fit into memory.

    Raises:
        ValueError: Says what is needed, by part, what there is, and the ways out.
    """
    if len(query.some):
        counted(query, head, stored, mask).check(query.parameters.where)


def counted(
    query: Query, head: Head | None, stored: bool, mask: FisherMask | None = None
) -> Estimate:
    """What a query holds, with its mask or before that is made."""
    own = query.parameters
    mask = own.mask if isinstance(own.mask, FisherMask) else mask
    k, reason, whole_head = _size(query, head, mask)
    part = query.some
    with evaluating(own.model, own.device) as net:
        inputs = to_model(part.some, device_of(net), input_dtype(net, part.some))
        saved, outputs = activations_of(net, inputs)
    rows = own.row_likelihood.make_rows(outputs, own.weighting, own.rank)
    parameters = trainable(unwrap(own.model))
    needs = Needs(
        k=k,
        reason=reason,
        n_total=sum(p.numel() for p in parameters.values()),
        n_rows=rows.shape[1],
        n_pool=len(query.pool),
        n_labeled=len(query.known),
        sample_numbers=factor_numbers(own.model, head, inputs, k, rows.shape[1], whole_head),
        itemsize=compute_dtype(parameters).itemsize,
        saved_bytes=saved,
        batch_size=own.batch_size or Pool.of(part.data).batch_size,
        diagonal=mask is None and own.mask in BY_DIAGONAL,
        backward=own.backward_steps > 0,
        stored=stored,
    )
    return estimate(needs, own.where)


def _size(query: Query, head: Head | None, mask: FisherMask | None) -> tuple[int, str, bool]:
    """k, why so many, and whether the whole head is among them."""
    own = query.parameters
    names = own.trainable_head(head)
    if mask is not None:
        whole = all(
            len(mask.indices.get(name, ())) == math.prod(mask.shapes[name]) for name in names
        )
        return len(mask), mask.reason, whole and bool(names)
    decided = own.mask_size(head)
    if decided is None:
        return 1, "as the scores will say", False
    return decided.k, decided.reason, decided.keep_head and bool(names)


def seconds_of(query: Query, head: Head | None, estimate: Estimate) -> dict[str, float]:
    """Seconds of the steps before the selection, from one batch."""
    own, pool = query.parameters, query.pool
    n = min(len(pool), own.batch_size or _TIMED)
    # A pool of n by itself: of the whole one the diagonal would draw others than these.
    some = replace(
        pool,
        indices=pool.among(pool.places[:n]),
        places=pool.places.new_tensor(range(n)),
        n_total=n,
    )
    n_all = len(pool) + len(query.known)
    seconds = {}
    if own.mask in BY_DIAGONAL:
        start = time.perf_counter()
        query.diagonal(some, n)
        seconds["mask"] = (time.perf_counter() - start) * min(own.fisher_samples, n_all) / n
    mask = own.mask if isinstance(own.mask, FisherMask) else _like(query, head, estimate.k)
    start = time.perf_counter()
    factors = query.gradients(some, mask)
    seconds["gradients"] = (time.perf_counter() - start) * n_all / n
    start = time.perf_counter()
    assert factors is not None
    factors.fisher()
    seconds["fisher"] = (time.perf_counter() - start) * n_all / n
    return seconds


def _like(query: Query, head: Head | None, k: int) -> FisherMask:
    """A mask of the size and kind that the query would make."""
    own = query.parameters
    size = own.mask_size(head)
    whole = size is not None and size.keep_head and bool(own.trainable_head(head))
    return FisherMask.random(
        own.model, n_parameters=k, head=() if head is None else head, keep_head=whole
    )
