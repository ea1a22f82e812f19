"""What a query needs, before it begins: bytes by part, and seconds a step from one batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fishermask_fast.distributed import Part
from fishermask_fast.estimates import Estimate, Needs, activations_of, estimate, factor_numbers
from fishermask_fast.factors import GradientFactors
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import (
    Head,
    Pool,
    compute_dtype,
    device_of,
    evaluating,
    input_dtype,
    raw_outputs,
    to_model,
    trainable,
    unwrap,
)
from fishermask_fast.selector.parameters import BY_DIAGONAL
from fishermask_fast.selector.query import Query

_TIMED = 16  # samples of the batch that is timed
_MOST_ROWS, _FEW = 12, 4  # rows whose backward passes are all timed; samples where there are more


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
    """Seconds of the steps before the selection, from one batch and a quarter of it.

    What a step takes but once, such as its plan, is in both, and is not multiplied:

        t(N) = t(n) + (N - n) (t(n) - t(n / 4)) / (n - n / 4)
    """
    own, pool = query.parameters, query.pool
    n_all = len(pool) + len(query.known)
    drawn = min(own.fisher_samples, n_all) if own.mask in BY_DIAGONAL else 0
    if estimate.n_rows > _MOST_ROWS and own.mask != "head":
        return _of_many_rows(query, estimate, drawn, n_all)
    seconds = {}
    if drawn:
        seconds["mask"] = _timed(query, lambda n: query.diagonal(_first(pool, n), n), _TIMED)(drawn)
    mask = own.mask if isinstance(own.mask, FisherMask) else _like(query, head, estimate.k)
    factors: list[Any] = []

    def gradients(n: int) -> None:
        factors[:] = [query.gradients(_first(pool, n), mask)]

    seconds["gradients"] = _timed(query, gradients, _TIMED)(n_all)
    seconds["fisher"] = _timed(query, lambda n: factors[0][:n].fisher(), _TIMED)(n_all)
    return seconds


def _of_many_rows(query: Query, estimate: Estimate, drawn: int, n_all: int) -> dict[str, float]:
    """The same where even a batch takes long: by a forward pass, and one row of r.

    t = t_forward + r (t_one_row - t_forward)
    """
    own, pool = query.parameters, query.pool

    def forward(n: int) -> None:
        with evaluating(own.model, own.device) as net, torch.no_grad():
            some = Pool.of(pool.data).subset(pool.among(pool.places[:n])).first(n)
            raw_outputs(net, to_model(some, device_of(net), input_dtype(net, some)))

    once = _timed(query, forward, _FEW)
    one = _timed(query, lambda n: query.diagonal(_first(pool, n), n, "sampled"), _FEW)

    def seconds_for(count: int) -> float:
        return once(count) + estimate.n_rows * max(one(count) - once(count), once(count))

    seconds = {"mask": seconds_for(drawn)} if drawn else {}
    factors = GradientFactors(torch.rand(1, estimate.n_rows, estimate.k, device=own.where))
    start = time.perf_counter()
    factors.fisher()
    each = time.perf_counter() - start
    return seconds | {"gradients": seconds_for(n_all), "fisher": each * n_all}


def _timed(query: Query, work: Callable[[int], object], most: int) -> Callable[[int], float]:
    """Seconds that some work on the first samples of a pool would take, by their number."""
    n = min(len(query.pool), query.parameters.batch_size or most)
    few = max(1, n // 4)
    took = []
    for count in (few, n):
        start = time.perf_counter()
        work(count)
        took.append(time.perf_counter() - start)
    if n == few:
        return lambda count: took[1] * count / n
    # The first of all calls may take longer than a whole batch.
    each = (took[1] - took[0]) / (n - few) if took[1] > took[0] else took[1] / n
    return lambda count: took[1] + each * (count - n)


def _first(pool: Part, n: int) -> Part:
    """A pool of n by itself: of the whole one the diagonal would draw others than these."""
    return replace(
        pool,
        indices=pool.among(pool.places[:n]),
        places=pool.places.new_tensor(range(n)),
        n_total=n,
    )


def _like(query: Query, head: Head | None, k: int) -> FisherMask:
    """A mask of the size and kind that the query would make."""
    own = query.parameters
    size = own.mask_size(head)
    whole = size is not None and size.keep_head and bool(own.trainable_head(head))
    return FisherMask.random(
        own.model, n_parameters=k, head=() if head is None else head, keep_head=whole
    )
