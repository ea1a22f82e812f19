"""The greedy engine: rank updates of every candidate's score, in blocks of picks.

Each candidate x keeps A_x = I + V_x M^-1 V_x^T and B_x = V_x G V_x^T, G = M^-1 F M^-1, and its
score tr(A_x^-1 B_x). A pick's U and W (see directions.py) change everything, and F itself is not
touched after the set-up:

    M^-1 <- M^-1 - U U^T,   G <- G - U W^T - W U^T
    A_x <- A_x - P P^T,     B_x <- B_x - P R^T - R P^T,     P = V_x U,  R = V_x W

A removal is the same with A_x = I - V_x M^-1 V_x^T, with B_x negated, and with M^-1 and G growing
instead: its score is minus the increase of tr(M^-1 F), so the largest wins there too.

A block picks T samples in a row among the leaders, then brings all other candidates up to date in
one pass over V. Where one of those would have won, the block is cut before that pick: the picks are
those of one pick at a time.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from fishermask_fast.checks import caller_level
from fishermask_fast.engine.choosing import Ambiguous, Choice, largest_near_top, losses
from fishermask_fast.engine.directions import Directions, Update
from fishermask_fast.engine.log_det import LogDetDirections, LogDetProblem
from fishermask_fast.engine.precision import (
    TIE,
    PrecisionPolicy,
    PrecisionWarning,
    Remedy,
)
from fishermask_fast.engine.problem import ILL_CONDITIONED, Problem, rounding
from fishermask_fast.engine.rules import Limits
from fishermask_fast.engine.state import Candidates, Fresh, Leaders, Report, Updates
from fishermask_fast.engine.updating import take_updates
from fishermask_fast.factors import GradientFactors

_logger = logging.getLogger(__name__)

_FIRST_BLOCK = 4
# Leaders of a block: so many a pick, or so large a share of all candidates, whose updates then cost
# a thirtieth of the pass over all; and never more than the pool says.
_LEADERS_PER_PICK = 8
_LEADERS_SHARE = 32
# Blocks in a row that float32 cuts for candidates too close to tell.
_MAX_DOUBTS = 3
# Of all candidates, so many times more lead after each block that brought nothing.
_GROWTH = 4
# Attempts without a pick, remedies included, after which candidates are not what they were: four
# times more leaders each time are all candidates long before.
_MAX_IDLE = 64
# Scores below this have lost digits to underflow, which no set-up brings back.
_TINY = 1e-290
# The share of the objective that a pick may raise it by, or a removal lower it, through rounding.
_ROUNDING = 1e-9
# The plain formula loses as much of M's smallest eigenvalue, and finds its picks up to here.
_MOST_LOST = 1e-2
# What is left of the objective when so many times the rounding of all changes is taken anew.
_DIGITS_LEFT = 1e3


class _Stale(Exception):
    """The state cannot tell the next winner, of the score given, before a remedy."""

    def __init__(self, remedy: Remedy, score: float) -> None:
        super().__init__(remedy, score)
        self.remedy = remedy
        self.score = score


class Engine:
    """Greedy picks from a pool, or removals from a picked set.

    Args:
        problem: the objective.
        candidates: what is picked (sign 1), or removed (sign -1), from.
        always_float64: never take products in float32.
        block_size: picks verified by one pass over the candidates; None adapts it.
        pending: samples in M besides, which are not among the candidates, or not free.
        limits: who may be picked; None for all.

    Attributes:
        taken: indices picked (or removed) so far, in order.
        changes: the score of each: by how much a pick lowers the objective; for a removal, minus by
            how much it raises it.
        gains: what the score of each was multiplied with.
        objective: tr(M^-1 F), or -log det M, before the first of them.
        passes: passes over V, set-ups apart.
        setups: how often the state of every candidate was made anew.

    Raises:
        ValueError: M is not positive definite, gradients are not finite, or scores overflow.
    """

    def __init__(
        self,
        problem: Problem,
        candidates: Candidates,
        *,
        always_float64: bool = False,
        block_size: int | None = None,
        pending: GradientFactors | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.taken: list[int] = []
        self.changes: list[float] = []
        self.gains: list[float] = []
        self.passes = 0
        self.setups = 0
        self._problem = problem
        self._pool = candidates
        self._sign = candidates.sign
        self._pending = pending
        self._limits = limits or Limits(len(candidates))
        # Gains taken one by one need no float32, whose margins are those of tr(A^-1 B).
        self._log_det = isinstance(problem, LogDetProblem)
        self._policy = PrecisionPolicy(always_float64 or self._log_det)
        self._fixed_block = None if block_size is None else min(block_size, len(candidates))
        self._block = self._fixed_block or _FIRST_BLOCK
        self._forced: set[int] = set()
        self._safe = False  # whether set-ups take the safe form
        self._careful = False  # whether scores are taken anew in the careful form
        self._warned = False
        self._resolution = 0.0  # the relative rounding error of scores
        self._idle = 0
        self._empty_blocks = 0
        self._doubts = 0
        self.objective = self._set_up()

    def _set_up(self) -> float:
        """M^-1, G and the state from their definitions, in float64; tr(M^-1 F)."""
        included = self._included()
        start = self._problem.set_up(included, self._safe)
        lamb = self._problem.lamb if self._problem.trivial(included) else None
        matrices = start.roots or (start.inverse, start.double)
        largest, resolved = self._renew(matrices, lamb, traces=True)
        if not resolved and start.roots is None:
            self._safe = True
            return self._set_up()
        self._resolution = max(self._resolution, rounding(max(start.condition, largest)))
        if not resolved or self._resolution > self._policy.margin or start.lost > _MOST_LOST:
            self._warn(self._problem.too_large())
        self._safe = start.roots is not None
        self._careful = self._careful or self._safe or largest > ILL_CONDITIONED
        if self._careful:
            self._policy.be_careful(largest)
        kind = LogDetDirections if self._log_det else Directions
        self._directions = kind(
            self._pool.n_rows,
            self._problem.scale,
            start,
            self._sign,
            self._fixed_block or self._pool.max_block,
            self._problem.fisher if self._careful else None,
        )
        self._choice = Choice(self._problem, self._directions, self._policy, self._sign)
        return start.objective

    def _included(self) -> GradientFactors | None:
        """The samples in M, None for none."""
        index = self.taken
        if self._sign < 0:
            index = sorted(set(range(len(self._pool))).difference(index))
        parts = [self._pool.rows(index)] if index else []
        if self._pending is not None:
            parts.insert(0, self._pending)
        return GradientFactors.cat(parts) if parts else None

    def course(self) -> list[float]:
        """The objective before the first that was taken, and after each.

        Where rounding may be all that the changes leave of it, the last value is taken from its
        definition, and those before are sums up to it, in which nothing cancels.
        """
        changes = torch.tensor(self.changes, dtype=torch.float64)
        falling = self.objective - changes.cumsum(0)
        lost = _DIGITS_LEFT * max(self._resolution, _ROUNDING) * abs(self.objective)
        if self._log_det or not self.changes or float(falling[-1]) > lost:
            return [self.objective, *falling.tolist()]
        last = self._problem.set_up(self._included(), self._safe).objective
        later = changes.flip(0).cumsum(0).flip(0)[1:]
        return [self.objective, *(last + later).tolist(), last]

    def _renew(
        self, matrices: tuple[Tensor, ...], lamb: float | None = None, *, traces: bool = False
    ) -> Fresh:
        """Every A, B and score from M^-1 and G or their roots, in float64; `lamb`: M = lamb I."""
        try:
            fresh = self._pool.set_up(*matrices, lamb=lamb, traces=traces)
        except OverflowError:
            raise self._problem.overflow() from None
        self.setups += 1
        return fresh

    def run(self, n_take: int, on_progress: Callable[[int], object] | None = None) -> None:
        """Go on until `n_take` are taken; `on_progress` hears how many each block took."""
        while len(self.taken) < n_take:
            before = len(self.taken)
            self._idle += 1
            if self._idle > _MAX_IDLE:
                raise RuntimeError(
                    f"no pick held in {_MAX_IDLE} attempts: gradients change while they are read"
                )
            try:
                self._take_block(n_take - before)
            except _Stale as stale:
                self._policy.remedied(stale.score)
                if stale.remedy is Remedy.SETUP:
                    self._set_up()
                elif stale.remedy is Remedy.RENEWAL:
                    self._renew(self._directions.matrices())
            except Ambiguous:
                _logger.info("near-ties within float32's margin: going on in float64 alone")
                self._policy.always_float64 = True
                self._policy.remedied(abs(self.changes[-1]))
                self._doubts = 0
                self._set_up()
            if on_progress is not None:
                on_progress(len(self.taken) - before)

    def _take_block(self, n_left: int) -> None:
        """Pick a block among the leaders, verify it against all others, and keep what holds."""
        if self._directions.full:
            self._set_up()
        n_free = self._limits.n_free
        wanted = max(self._leader_count(n_left), len(self._forced))
        wanted *= _GROWTH ** max(self._empty_blocks - 1, 0)
        leaders = self._pool.begin(min(wanted, n_free), self._forced)
        self._directions.begin()
        picks, running = self._pick_among(leaders, min(self._block, n_left, len(leaders)))
        kept = size = len(picks)
        float64 = self._policy.float64
        if len(leaders) < n_free:
            error = self._policy.error(leaders.state.traces)
            thresholds = [
                score - max(self._policy.margin * abs(score), 2 * error) for score in running
            ]
            updates = self._directions.block(size)
            closing = self._limits.closing([pick.index for pick in picks])
            report = self._pool.verify(updates, thresholds, float64=float64, closing=closing)
            self.passes += 1
            kept = self._first_beaten(picks, running, report)
        taken = [pick.index for pick in picks[:kept]]
        closed = [cluster for cluster in self._limits.closing(taken) if cluster is not None]
        if kept < size:
            updates = self._directions.block(kept)
            self.passes += self._pool.cut(leaders, updates, taken, float64=float64, closed=closed)
        else:
            self._pool.keep(leaders, taken, closed)
            self._forced.clear()
        self._empty_blocks = 0 if kept else self._empty_blocks + 1
        self._accept(picks[:kept])
        if self._fixed_block is None:
            grown = 2 * size if kept == size else max(size // 2, kept, 1)
            self._block = min(grown, self._pool.max_block)
        if not float64 and self._doubts > _MAX_DOUBTS:
            raise Ambiguous

    def _leader_count(self, n_left: int) -> int:
        share = min(len(self._pool) // _LEADERS_SHARE, self._pool.max_leaders)
        return max(_LEADERS_PER_PICK * min(self._block, n_left), share)

    def _pick_among(self, leaders: Leaders, size: int) -> tuple[list[Update], list[float]]:
        """Greedy picks among the leaders alone, whose state moves along.

        Ends early where the state has gone stale. Returns the picks in order, and what the running
        score of each was.
        """
        left = torch.arange(len(leaders), device=leaders.index.device)
        picks: list[Update] = []
        running: list[float] = []
        while len(picks) < size and len(left):
            scores = leaders.state.scores[left]
            if self._sign > 0 and not bool(scores.isfinite().all()):
                # Rounding has left an A that is not positive definite, and not at a set-up.
                if picks:
                    break
                if not self._policy.fresh:
                    raise _Stale(Remedy.SETUP, abs(self.changes[-1]))
            fallen = losses(leaders.state, left)
            pick, at, remedy = self._choice.winner(leaders, left, scores, fallen)
            loss = largest_near_top(fallen, scores)
            score = float(scores[at])
            first = abs(picks[0].score) if picks else None
            error = self._policy.error(leaders.state.traces[left])
            if not picks and self._policy.fresh:
                self._guard(pick, score, error)
            given = (abs(pick.score), abs(score), loss, first, error)
            remedy = remedy or self._policy.remedy(*given)
            if remedy is not None:
                if not picks:
                    raise _Stale(remedy, abs(pick.score))
                break
            picks.append(pick)
            running.append(score)
            self._directions.add(pick.alone())
            left = self._without(left, at, leaders, [one.index for one in picks])
            self._advance(leaders, left, pick.alone(), pick.u.new_zeros(1))
        return picks, running

    def _without(self, left: Tensor, at: int, leaders: Leaders, picks: list[int]) -> Tensor:
        """The leaders that are left when that `at` is picked, the last of the block's `picks`."""
        if leaders.inherit(int(left[at])):
            left = left[leaders.index[left].argsort()]
        else:
            left = torch.cat([left[:at], left[at + 1 :]])
        cluster = self._limits.closing(picks)[-1]
        if cluster is None or self._limits.clusters is None:
            return left
        others = self._limits.clusters[leaders.index[left].cpu()] != cluster
        return left[others.to(left.device)]

    def _guard(self, pick: Update, running: float, error: float) -> None:
        """Doubt a state that is new: by what it says of its first winner, and by the objective."""
        score = pick.score
        if abs(score) < _TINY and self._problem.underflows(pick.rows):
            self._warn(self._problem.too_small())
        apart = abs(running - score) > max(self._policy.margin * abs(score), 2 * error, _TINY)
        wrong_way = self._sign * pick.change < -_ROUNDING * abs(self.objective)
        if not (apart or wrong_way) or self._warned:
            return
        if not self._safe:
            self._safe = True
            raise _Stale(Remedy.SETUP, abs(score))
        self._warn(self._problem.too_large())

    def _warn(self, cause: str) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"scores are beyond what float64 resolves: {cause}",
            PrecisionWarning,
            stacklevel=caller_level(),
        )

    def _advance(
        self, leaders: Leaders, index: Tensor, updates: Updates, thresholds: Tensor
    ) -> None:
        """Take updates to some leaders."""
        take_updates(
            leaders.state,
            leaders.factors,
            index,
            updates,
            thresholds,
            scale=self._problem.scale,
            float64=self._policy.float64,
        )

    def _first_beaten(self, picks: list[Update], running: list[float], report: Report) -> int:
        """How many picks stand before one that a candidate outside the leaders would have won."""
        n, float64 = len(self._pool), self._policy.float64
        for t, (pick, score) in enumerate(zip(picks, running, strict=True)):
            # A higher index with an equal score loses; float32 cannot tell which scores are equal.
            first = report.first_index[t]
            # A wide margin hides which of two is better.
            sharp = float64 and not self._careful
            beaten = first < (pick.index if sharp else n)
            if beaten or report.best[t] > score + TIE * abs(score):
                clear = report.best[t] > score + self._policy.margin * abs(score)
                self._doubts = 0 if clear else self._doubts + 1
                self._forced |= {i for i in (report.best_index[t], first) if i < n}
                return t
        if len(picks) >= _FIRST_BLOCK:
            self._doubts = 0
        return len(picks)

    def _accept(self, picks: list[Update]) -> None:
        self._directions.keep(len(picks))
        self._idle = 0 if picks else self._idle
        self._limits.take([pick.index for pick in picks])
        for pick in picks:
            self.taken.append(pick.index)
            self.changes.append(pick.change)
            self.gains.append(pick.gain)
            self._forced.discard(pick.index)
            self._policy.observe(abs(pick.score))
