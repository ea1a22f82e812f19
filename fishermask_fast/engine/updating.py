"""Rank updates of the state of some candidates: all at once, or one at a time where that must be.

The compiled pass compares tr(A_x^-1 B_x) as it is, of all candidates alike. One at a time go gains
that are weighted, candidates that leave between two updates as their cluster has had its picks, and
the gain log det A_x, for which E_x = A_x - I is kept, so that small gains keep their digits, and no
B_x:

    E_x <- E_x - P P^T,   gain(x) = w_x log det (I + E_x) = w_x sum_i log(1 + f_i),

f_i + 1 the pivots of I + E_x, each taken without the 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.engine.state import State, Updates
from fishermask_fast.factors import GradientFactors
from fishermask_fast.ops import selection as ops
from fishermask_fast.triangles import packed, unpacked

# Numbers of the products P at work.
_CHUNK_NUMBERS = 2**21


def take_updates(
    state: State,
    factors: GradientFactors,
    index: Tensor,
    updates: Updates,
    thresholds: Tensor,
    *,
    scale: float,
    float64: bool,
    until: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take updates to some candidates, in place, and tell who would have won; see ops.score_update.

    Args:
        state: of the candidates of `factors`.
        factors: their gradients.
        index: (n,) int64, which of them.
        updates: T updates, in order.
        thresholds: (T,) scores.
        scale: V = scale * factors.
        float64: whether products are taken in float64.
        until: (N,) int64, the last update before which each may still win; None where all may.
    """
    if state.log_det or state.gains is not None or until is not None:
        return _one_by_one(state, factors, index, updates, thresholds, until, scale, float64)
    return _at_once(state, factors, index, updates, thresholds, scale, float64)


def _at_once(
    state: State,
    factors: GradientFactors,
    index: Tensor,
    updates: Updates,
    thresholds: Tensor,
    scale: float,
    float64: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.score_update(
        factors,
        index,
        *updates,
        thresholds,
        state.a,
        state.b,
        state.scores,
        scale=scale,
        float64_products=float64,
    )


def _one_by_one(
    state: State,
    factors: GradientFactors,
    index: Tensor,
    updates: Updates,
    thresholds: Tensor,
    until: Tensor | None,
    scale: float,
    float64: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(state.scores)
    best = torch.full_like(thresholds, -torch.inf)
    best_index = torch.full_like(thresholds, n, dtype=torch.int64)
    first_index = best_index.clone()
    if not len(updates.ranks):
        _take_one(state, factors, index, updates, 0, scale, float64)
    start = 0
    for t, rank in enumerate(updates.ranks):
        if len(index):
            scores = state.scores[index].nan_to_num_(nan=-torch.inf)
            if until is not None:
                scores = scores.masked_fill(until[index] < t, -torch.inf)
            best[t] = scores.max()
            wins = (scores == best[t]) & ~scores.isneginf()
            best_index[t] = torch.where(wins, index, n).min()
            reaches = (scores >= thresholds[t]) & ~scores.isneginf()
            first_index[t] = torch.where(reaches, index, n).min()
        stop = start + rank
        one = Updates(updates.u[start:stop], updates.w[start:stop], [rank])
        _take_one(state, factors, index, one, rank, scale, float64)
        start = stop
    return best, best_index, first_index


def _take_one(
    state: State,
    factors: GradientFactors,
    index: Tensor,
    update: Updates,
    rank: int,
    scale: float,
    float64: bool,
) -> None:
    """One update, or none; and the scores after it."""
    if state.log_det:
        size = max(1, _CHUNK_NUMBERS // max(1, factors.n_rows * max(rank, factors.n_columns)))
        for some in index.split(size) if len(index) else ():
            e = state.a[some]
            if rank:
                p = factors[some].times(update.u.T.contiguous()).mul_(scale)
                e -= packed(p @ p.mT)
                state.a[some] = e
            state.scores[some] = _log_det(e, factors.n_rows)
    else:
        _at_once(state, factors, index, update, update.never(), scale, float64)
    if state.gains is not None:
        state.scores[index] *= state.gains[index]


def _log_det(triangles: Tensor, r: int) -> Tensor:
    """log det (I + E) of packed lower triangles E, (n,); NaN where I + E is not positive definite.

    Args:
        triangles: (n, r (r + 1) / 2) float64.
        r: rows of each E.
    """
    e = unpacked(triangles, r)
    total = triangles.new_zeros(len(triangles))
    for j in range(r):
        pivot = e[:, j, j].clone()
        total += torch.where(pivot > -1, pivot, torch.nan).log1p()
        below = e[:, j + 1 :, j].clone()
        e[:, j + 1 :, j + 1 :] -= below[:, :, None] * (below / (1 + pivot)[:, None])[:, None, :]
    return total
