"""Who wins among the leaders of a block, where running scores are too close to tell.

Rank updates leave rounding in running scores. The leaders within a margin of the top are therefore
compared by scores taken anew from M^-1 and G, of equal samples and of near copies only those that
may win; a tie goes to the lowest index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fishermask_fast.engine.alike import may_win
from fishermask_fast.engine.directions import Directions, Update
from fishermask_fast.engine.precision import TIE, PrecisionPolicy, Remedy
from fishermask_fast.engine.problem import Problem
from fishermask_fast.engine.state import Leaders, State
from fishermask_fast.factors import first_of_equal

_MAX_CONTENDERS = 16
# So few are scored anew for about the price of telling who need not be.
_FEW = 4
# Which of many contenders are kept, relative to the best score: more than any doubt there is.
_MATCH = 1e-7
# The score of a sample whose removal would leave an M that float64 takes for singular.
_NEVER = 1e300
_NEAR_TOP = 0.9


class Ambiguous(Exception):
    """More candidates within float32's margin of the winner than are scored one by one."""


def losses(state: State, left: Tensor) -> Tensor:
    """How many times tr(B_x) of some leaders has fallen since the set-up, (m,)."""
    return (state.traces / state.trace_b().clamp_(min=1e-300))[left]


def largest_near_top(losses: Tensor, scores: Tensor) -> float:
    """The largest loss among the best leaders."""
    top = scores.max()
    return float(losses.masked_fill(scores < top - _NEAR_TOP * top.abs(), 0.0).max())


@dataclass(frozen=True)
class Choice:
    """How the winner among some leaders is told.

    Attributes:
        problem: the objective.
        directions: scores and updates of single samples.
        policy: which of them are too close to tell.
        sign: 1 for picks, -1 for removals.
    """

    problem: Problem
    directions: Directions
    policy: PrecisionPolicy
    sign: int

    def winner(
        self, leaders: Leaders, left: Tensor, scores: Tensor, losses: Tensor
    ) -> tuple[Update, int, Remedy | None]:
        """The winner among the leaders left, its place there, and what is due to tell for sure.

        The candidates within the margin of the top are compared by scores taken anew; a tie goes to
        the lowest index.

        Args:
            leaders: of the block.
            left: (m,) int64, ascending, which of them are not picked.
            scores: (m,) their running scores.
            losses: (m,) of these.

        Raises:
            Ambiguous: float32's margin holds too many for that.
            ValueError: scores overflow.
        """
        if self.sign < 0:
            scores = scores.nan_to_num(nan=-_NEVER, neginf=-_NEVER)
        top = scores.max()
        if not bool(top.isfinite()):
            raise self.problem.overflow()
        margin = self.policy.margin * top.abs()
        error = self.policy.errors(leaders.state.traces[left]).clamp_(min=float(margin) / 2)
        near = (scores + error >= top - error[scores.argmax()]).nonzero().squeeze(1)
        if self.policy.nothing_left(abs(float(top))):
            near = near[:1]
        if near.numel() > 1:
            gains = leaders.state.gains
            beside = None if gains is None else gains[left[near]]
            near = near[first_of_equal(leaders.factors[left[near]], beside)]
        doubt = self.policy.doubt(float(losses[near].max()))
        able = self._may_win(leaders, left, near, doubt)
        # Where none is left out they are no near copies, and float64's margin tells more apart.
        if len(able) == len(near) > _MAX_CONTENDERS and not self.policy.float64:
            raise Ambiguous
        near = able
        contenders = self._contenders(leaders, left[near])
        best = contenders[max(contenders, key=lambda at: contenders[at].score)]
        behind = {
            at: 0.0
            if update.gain == best.gain and torch.equal(update.rows, best.rows)
            else (best.score - update.score) / max(abs(best.score), 1e-300)
            for at, update in contenders.items()
        }
        at = next(at for at, gap in behind.items() if gap <= TIE)
        due = Remedy.SETUP if any(TIE < gap <= doubt for gap in behind.values()) else None
        return contenders[at], int(near[at]), due

    def _may_win(self, leaders: Leaders, left: Tensor, near: Tensor, doubt: float) -> Tensor:
        """Those of many contenders that may win, told from one of them where they are alike."""
        if near.numel() < _FEW or leaders.state.gains is not None:
            return near
        base = self.directions.base(leaders.factors, left[near[:1]], self.problem.lamb)
        if base is None:
            return near
        scores = base.scores(leaders.factors[left[near]], self.problem.scale)
        return near[may_win(*scores, doubt)]

    def _contenders(self, leaders: Leaders, slots: Tensor) -> dict[int, Update]:
        """The updates of the best of some leaders, by their places in `slots`, ascending.

        Of many, those are left out that are no match for another.
        """
        found: dict[int, Update] = {}
        for start in range(0, slots.numel(), _MAX_CONTENDERS):
            batch = slots[start : start + _MAX_CONTENDERS]
            updates = self.directions.updates(leaders.factors, batch, leaders.index[batch].tolist())
            if leaders.state.gains is not None:
                gains = leaders.state.gains[batch].tolist()
                updates = [
                    replace(one, gain=gain) for one, gain in zip(updates, gains, strict=True)
                ]
            found |= {start + at: update for at, update in enumerate(updates)}
            if slots.numel() > _MAX_CONTENDERS:
                best = max(update.score for update in found.values())
                least = best - _MATCH * abs(best)
                found = {at: update for at, update in found.items() if update.score >= least}
        return found
