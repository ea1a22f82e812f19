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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast import ops
from fishermask_fast.directions import Directions, Update, add_to_lower
from fishermask_fast.factors import GradientFactors
from fishermask_fast.precision import TIE, PrecisionPolicy, Remedy

_logger = logging.getLogger(__name__)

_MAX_BLOCK = 16
# Leaders of a block: so many a pick, or so large a share of all candidates, whose updates then cost
# a thirtieth of the pass over all; and never more than can be compared at a glance.
_LEADERS_PER_PICK = 8
_LEADERS_SHARE = 32
_MAX_LEADERS = 4096
_MAX_CONTENDERS = 16
_MAX_EMPTY_BLOCKS = 3
_NEAR_TOP = 0.9


@dataclass(frozen=True)
class Problem:
    """What is selected from, and the matrices that define the objective tr(M^-1 F).

    M = lamb I + F_L n_L / (n_L + K) + the picks' scale^2 V_x^T V_x,  scale^2 = K / (n_L + K).
    """

    factors: GradientFactors  # N candidates
    fisher: Tensor  # (k, k) float64, F
    labeled_fisher: Tensor | None  # (k, k) float64, F_L
    lamb: float
    n_labeled: int
    n_select: int

    @property
    def scale(self) -> float:
        """What V is multiplied with, sqrt(K / (n_L + K))."""
        return float((self.n_select / (self.n_labeled + self.n_select)) ** 0.5)

    def information(self, included: Tensor) -> Tensor:
        """M with the candidates `included` (a LongTensor) in it, (k, k)."""
        k = self.fisher.shape[0]
        m = torch.eye(k, dtype=torch.float64, device=self.fisher.device).mul_(self.lamb)
        if self.labeled_fisher is not None:
            m.add_(self.labeled_fisher, alpha=self.n_labeled / (self.n_labeled + self.n_select))
        if included.numel():
            m.add_(self.factors[included].fisher(), alpha=self.scale**2 * included.numel())
        return m

    def trivial(self, included: Tensor) -> bool:
        """Whether M = lamb I."""
        return self.labeled_fisher is None and included.numel() == 0

    def inverses(self, included: Tensor) -> tuple[Tensor, Tensor]:
        """M^-1 and G = M^-1 F M^-1, of which the lower triangle counts, with `included` in M.

        Raises:
            ValueError: M is not positive definite.
        """
        if self.trivial(included):
            eye = torch.eye(len(self.fisher), dtype=torch.float64, device=self.fisher.device)
            return eye / self.lamb, self.fisher / self.lamb**2
        factor, failed = torch.linalg.cholesky_ex(self.information(included))
        if int(failed):
            raise ValueError(
                "lamb I + labeled_fisher n_labeled / (n_labeled + n_select) + V^T V of the picks "
                "must be positive definite in float64: labeled_fisher has a negative eigenvalue, "
                f"or lamb = {self.lamb:g} is too small against it and the gradients"
            )
        inverse = torch.cholesky_inverse(factor).contiguous()
        double = torch.zeros_like(inverse)
        add_to_lower(double, inverse, self.fisher @ inverse, 1.0)
        return inverse, double


class _Ambiguous(Exception):
    """More candidates within float32's margin of the winner than are scored one by one."""


class _Stale(Exception):
    """The state cannot tell the next winner, of the score given, before a remedy."""

    def __init__(self, remedy: Remedy, score: float) -> None:
        super().__init__(remedy, score)
        self.remedy = remedy
        self.score = score


class Engine:
    """Greedy picks (sign = 1) from a pool, or removals (sign = -1) from a picked set.

    Attributes:
        taken: indices picked (or removed) so far, in order.
        changes: the score of each: by how much a pick lowers tr(M^-1 F); for a removal, minus by
            how much it raises it.
        objective: tr(M^-1 F) before the first of them.
        passes: passes over V, set-ups apart.
        setups: how often the state of every candidate was made anew.
    """

    # Of the samples that a set-up takes at a time by default.
    _chunk_factor = 1

    def __init__(
        self,
        problem: Problem,
        *,
        sign: int = 1,
        always_float64: bool = False,
        block_size: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.taken: list[int] = []
        self.changes: list[float] = []
        self.passes = 0
        self.setups = 0
        self._problem = problem
        self._factors = problem.factors
        self._sign = sign
        self._policy = PrecisionPolicy(always_float64)
        self._fixed_block = block_size
        self._block = block_size or 4
        self._chunk_size = chunk_size or self._chunk_factor * self._factors.default_chunk_size()
        self._forced: set[int] = set()
        self._empty_blocks = 0
        n, r = len(self._factors), self._factors.n_rows
        device = self._factors.device
        self._a = torch.empty(n, r * (r + 1) // 2, dtype=torch.float64, device=device)
        self._b = torch.empty_like(self._a)
        self._saved = (torch.empty_like(self._a), torch.empty_like(self._b))
        self._scores = torch.empty(n, dtype=torch.float64, device=device)
        self._free = torch.ones(n, dtype=torch.bool, device=device)
        self.objective = self._set_up()

    def _set_up(self) -> float:
        """M^-1, G and the state from their definitions, in float64; tr(M^-1 F)."""
        device = self._factors.device
        taken = torch.tensor(self.taken, dtype=torch.int64, device=device)
        included = taken if self._sign > 0 else self._free.nonzero().squeeze(1)
        inverse, double = self._problem.inverses(included)
        self._directions = Directions(
            self._factors,
            self._problem.scale,
            inverse,
            double,
            self._sign,
            self._fixed_block or _MAX_BLOCK,
        )
        self._renew(self._problem.trivial(included))
        self._b_at_setup = (self._b @ self._diagonal).abs_()
        return float((inverse * self._problem.fisher).sum())

    def _renew(self, trivial: bool = False) -> None:
        """Every A, B and score from M^-1 and G, in float64; `trivial` where M = lamb I."""
        factors, r = self._factors, self._factors.n_rows
        inverse, double = self._directions.matrices()
        square = self._problem.scale**2 * self._sign
        if trivial:
            a = factors.grams().div_(self._problem.lamb)
            (b,) = factors.quadratic_forms(double, chunk_size=self._chunk_size)
        else:
            a, b = factors.quadratic_forms(inverse, double, chunk_size=self._chunk_size)
        a.mul_(square).diagonal(dim1=1, dim2=2).add_(1.0)
        rows, columns = torch.tril_indices(r, r, device=factors.device)
        self._a.copy_(a[:, rows, columns])
        self._b.copy_(b[:, rows, columns]).mul_(square)
        self._diagonal = (rows == columns).double()  # of a packed triangle
        free = self._free.nonzero().squeeze(1)
        empty = inverse.new_empty(0, inverse.shape[0])
        self._apply(free, (empty, empty, []), [])
        if not bool(self._scores[free].isfinite().all()):
            raise self._overflow()
        self.setups += 1

    def _overflow(self) -> ValueError:
        return ValueError(
            "scores overflow float64: the gradients or fisher are too large against "
            f"lamb = {self._problem.lamb:g}; scale them down or raise lamb"
        )

    def run(self, n_take: int, on_progress: Callable[[int], object] | None = None) -> None:
        """Go on until `n_take` are taken; `on_progress` hears how many each block took."""
        while len(self.taken) < n_take:
            before = len(self.taken)
            try:
                self._take_block(n_take - before)
            except _Stale as stale:
                self._policy.remedied(stale.score)
                if stale.remedy is Remedy.SETUP:
                    self._set_up()
                elif stale.remedy is Remedy.RENEWAL:
                    self._renew()
            except _Ambiguous:
                _logger.info("near-ties within float32's margin: going on in float64 alone")
                self._policy.always_float64 = True
                self._policy.remedied(abs(self.changes[-1]))
                self._set_up()
            if on_progress is not None:
                on_progress(len(self.taken) - before)

    def _take_block(self, n_left: int) -> None:
        """Pick a block among the leaders, verify it against all others, and keep what holds."""
        float64 = self._policy.float64
        share = min(len(self._factors) // _LEADERS_SHARE, _MAX_LEADERS)
        leaders = self._leaders(max(_LEADERS_PER_PICK * min(self._block, n_left), share))
        size = min(self._block, n_left, leaders.numel())
        rest = self._free.index_fill(0, leaders, False).nonzero().squeeze(1)
        self._saved[0].copy_(self._a)
        self._saved[1].copy_(self._b)
        self._directions.begin()
        picks, running = self._pick_among(leaders, size)
        kept = size = len(picks)
        if rest.numel():
            margin = self._policy.margin
            thresholds = [score - margin * abs(score) for score in running]
            beaten = self._apply(rest, self._directions.block(size), thresholds)
            self.passes += 1
            kept = self._first_beaten(picks, running, *beaten)
        if kept < size:
            self._a.copy_(self._saved[0])
            self._b.copy_(self._saved[1])
            free = self._free.nonzero().squeeze(1)
            self._apply(free, self._directions.block(kept), [0.0] * kept)
            self.passes += 1
        else:
            self._forced.clear()
        self._empty_blocks = 0 if kept else self._empty_blocks + 1
        if not float64 and self._empty_blocks > _MAX_EMPTY_BLOCKS:
            raise _Ambiguous
        self._accept(picks[:kept])
        if self._fixed_block is None:
            grown = 2 * size if kept == size else max(size // 2, 1)
            self._block = min(grown, _MAX_BLOCK)

    def _leaders(self, size: int) -> Tensor:
        """The candidates with the best scores, ties by lowest index, in ascending order."""
        free = int(self._free.sum())
        scores = self._scores.masked_fill(~self._free, -torch.inf)
        if size >= free:
            return self._free.nonzero().squeeze(1)
        lowest = scores.topk(size).values[-1]
        chosen = scores > lowest
        ties = (scores == lowest).nonzero().squeeze(1)
        chosen[ties[: size - int(chosen.sum())]] = True
        if self._forced:
            chosen[list(self._forced)] = True
        return chosen.nonzero().squeeze(1)

    def _pick_among(self, leaders: Tensor, size: int) -> tuple[list[Update], list[float]]:
        """Greedy picks among the leaders alone, whose state moves along.

        Ends early where the state has gone stale. Returns the picks in order, and what the running
        score of each was.
        """
        scores = self._scores[leaders]
        picks: list[Update] = []
        running: list[float] = []
        for _ in range(size):
            loss = self._loss(leaders, scores)
            pick, slot, remedy = self._choose(leaders, scores, loss)
            score = float(scores[slot])
            first = abs(picks[0].score) if picks else None
            remedy = remedy or self._policy.remedy(abs(pick.score), abs(score), loss, first)
            if remedy is not None:
                if not picks:
                    raise _Stale(remedy, abs(pick.score))
                break
            picks.append(pick)
            running.append(score)
            self._directions.add(pick)
            leaders = torch.cat([leaders[:slot], leaders[slot + 1 :]])
            self._apply(leaders, (pick.u, pick.w, [pick.u.shape[0]]), [0.0])
            scores = self._scores[leaders]
        return picks, running

    def _loss(self, leaders: Tensor, scores: Tensor) -> float:
        """How many times tr(B_x) has fallen since the set-up, at most, among the best leaders."""
        top = scores.max()
        now = (self._b[leaders] @ self._diagonal).abs_().clamp_(min=1e-300)
        loss = self._b_at_setup[leaders] / now
        return float(loss.masked_fill_(scores < top - _NEAR_TOP * top.abs(), 0.0).max())

    def _choose(
        self, leaders: Tensor, scores: Tensor, loss: float
    ) -> tuple[Update, int, Remedy | None]:
        """The winner among the leaders, its place among them, and what is due to tell for sure.

        The candidates within the margin of the top are compared by scores taken anew; a tie goes to
        the lowest index. Where they are too many for that, they are taken for equal samples.
        """
        top = scores.max()
        near = (scores >= top - self._policy.margin * top.abs()).nonzero().squeeze(1)
        if not near.numel():
            raise self._overflow()
        if near.numel() > _MAX_CONTENDERS:
            if not self._policy.float64:
                raise _Ambiguous
            near = near[:1]
        slots: list[int] = near.tolist()
        indices: list[int] = leaders[near].tolist()
        contenders = self._directions.updates(indices)
        best = max(contenders, key=lambda update: update.score)
        behind = [
            0.0
            if torch.equal(update.rows, best.rows)
            else (best.score - update.score) / max(abs(best.score), 1e-300)
            for update in contenders
        ]
        at = next(at for at, gap in enumerate(behind) if gap <= TIE)
        doubt = self._policy.doubt(loss)
        due = Remedy.SETUP if any(TIE < gap <= doubt for gap in behind) else None
        return contenders[at], slots[at], due

    def _apply(
        self, index: Tensor, updates: tuple[Tensor, Tensor, list[int]], thresholds: list[float]
    ) -> tuple[list[float], list[int], list[int]]:
        """Take updates (U, W, ranks) to the candidates `index`; see ops.score_update."""
        limits = torch.tensor(thresholds, dtype=torch.float64, device="cpu")
        found = self._advance(index, updates, limits.to(index.device, non_blocking=True))
        # Indices are exact in float64: one report and one wait for all of it.
        best, best_index, first_index = torch.stack([part.double() for part in found]).tolist()
        return best, [int(i) for i in best_index], [int(i) for i in first_index]

    def _advance(
        self, index: Tensor, updates: tuple[Tensor, Tensor, list[int]], thresholds: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same without waiting for the device; `thresholds` (T,) float64."""
        u, w, ranks = updates
        return ops.score_update(
            self._factors,
            index,
            u,
            w,
            ranks,
            thresholds,
            self._a,
            self._b,
            self._scores,
            scale=self._problem.scale,
            float64_products=self._policy.float64,
        )

    def _first_beaten(
        self,
        picks: list[Update],
        running: list[float],
        best: list[float],
        best_index: list[int],
        first_index: list[int],
    ) -> int:
        """How many picks stand before one that a candidate outside the leaders would have won."""
        float64 = self._policy.float64
        for t, (pick, score) in enumerate(zip(picks, running, strict=True)):
            # A higher index with an equal score loses; float32 cannot tell which scores are equal.
            beaten = first_index[t] < (pick.index if float64 else len(self._factors))
            if beaten or best[t] > score + TIE * abs(score):
                self._forced |= {
                    i for i in (best_index[t], first_index[t]) if i < len(self._factors)
                }
                return t
        return len(picks)

    def _accept(self, picks: list[Update]) -> None:
        self._directions.keep(len(picks))
        for pick in picks:
            self.taken.append(pick.index)
            self.changes.append(pick.score)
            self._free[pick.index] = False
            self._forced.discard(pick.index)
            self._policy.observe(abs(pick.score))
