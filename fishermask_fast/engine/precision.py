"""The precision policy of the selection, in one place.

Scores fall like 1/i^2 over the picks and B_x faster still, so A_x, B_x and G end as small
differences of large numbers, and the rounding of the early, large updates stays in them. Products
with V are therefore taken in float64 while scores fall steeply and in float32 after, and the state
is made anew, in float64, before what was left behind can decide a pick.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor

# Scores closer than this (relative) are ties, which the lowest index wins: rounding must not decide
# between two equal samples.
TIE = 1e-9
# What rank updates may leave behind in a running score (relative). A candidate within this margin
# of the winner is scored anew from M^-1 and G before it is passed over.
_MARGIN_IN_FLOAT32 = 1e-4
_MARGIN_IN_FLOAT64 = 1e-6

# Falls of the top score after which A and B are made anew. In float64 the error left behind grows
# with the square of the fall. Float32 products begin where the first of these is due.
_FALL_IN_FLOAT64 = 1e3
_FALL_IN_FLOAT32 = 64.0
# How many times B_x may fall before M^-1 and G are made anew as well: the rounding of G's updates
# stays in it, and this is its share of the margin.
_LOSS_IN_FLOAT64 = 1e7
_LOSS_IN_FLOAT32 = 1e10
# The relative error of a score taken from M^-1 and G, for each time that B_x has fallen. On trained
# gradients it is a hundredth of this for most samples and half of it for the worst.
_ERROR_PER_LOSS = 1e-15
# What rounding may leave in the score of a state, as a share of tr(B_x) at its set-up: A_x >= I.
_ERROR_PER_TRACE = 1e-15
# The largest relative error of a running score after which the state is made anew.
_MOST_ERROR = 1e-3
# Below this share of the first score rounding is all that is left to compare.
_NOTHING_LEFT = 1e-14


class PrecisionWarning(UserWarning):
    """The scores of a selection are beyond what float64 resolves; the text says what to scale.

    Example:
        >>> import warnings
        >>> from fishermask_fast import PrecisionWarning
        >>> warnings.simplefilter("error", PrecisionWarning)  # to stop there instead
        >>> warnings.simplefilter("default", PrecisionWarning)
    """


class Remedy(Enum):
    """What a state needs before it can tell the next winner."""

    FLOAT32 = "products in float32 from here on"
    RENEWAL = "A and B anew from M^-1 and G"
    SETUP = "M^-1, G, A and B anew from their definitions"


class PrecisionPolicy:
    """Which products to take in float64, and when to make the state anew.

    Args:
        always_float64: never take float32 products.
    """

    def __init__(self, always_float64: bool) -> None:
        self.always_float64 = always_float64
        self._first: float | None = None
        self._float32 = False
        self._reference: float | None = None  # the first score since the last remedy
        self._careful = False
        self._nothing_left = _NOTHING_LEFT

    def be_careful(self, largest: float) -> None:
        """Large parts of A and B hide small ones: no float32, and running scores have wide margins.

        Args:
            largest: entry of any A_x; scores fall by as much before anything is lost.
        """
        self._careful = True
        self.always_float64 = True
        self._nothing_left = min(self._nothing_left, _NOTHING_LEFT / max(largest, 1.0))

    @property
    def fresh(self) -> bool:
        """Whether nothing has been picked since the last remedy."""
        return self._reference is None

    def errors(self, traces: Tensor) -> Tensor:
        """How far off running scores may be beside the margin, where tr(B_x) was as given."""
        return traces * (_ERROR_PER_TRACE if self._careful else 0.0)

    def error(self, traces: Tensor) -> float:
        """The largest of these."""
        return float(self.errors(traces).max()) if self._careful else 0.0

    def nothing_left(self, score: float) -> bool:
        """Whether rounding is all that scores of this size have left to compare."""
        return self._first is not None and score < self._nothing_left * self._first

    @property
    def float64(self) -> bool:
        """Whether the next products are taken in float64."""
        return self.always_float64 or not self._float32

    @property
    def margin(self) -> float:
        """How close running scores must be for their order to be doubtful."""
        return _MARGIN_IN_FLOAT64 if self.float64 else _MARGIN_IN_FLOAT32

    def observe(self, score: float) -> None:
        """Note a winner's score."""
        if self._first is None:
            self._first = score
        if self._reference is None:
            self._reference = score

    def remedy(
        self,
        score: float,
        running: float,
        loss: float,
        first: float | None,
        error: float = 0.0,
    ) -> Remedy | None:
        """What is due before the state can tell that the winner of this score has won.

        Something is due where scores, or B_x of a candidate near the top, have fallen far, or where
        the running score is off by more than a quarter of the margin. The first winner after a
        remedy is always believed.

        Args:
            score: the would-be winner's, taken anew from M^-1 and G.
            running: the same as rank updates have left it.
            loss: how many times the trace of B_x has fallen since the last set-up, at most, near
                the top.
            first: the score of the block's first winner, None before there is one.
            error: of a running score, at most, beside the margin.
        """
        reference = first if self._reference is None else self._reference
        if reference is None:
            return None
        if self.nothing_left(score):
            return None
        drifted = abs(running - score) > max(self.margin / 4 * score, error)
        if self.float64:
            if drifted or loss > _LOSS_IN_FLOAT64 or error > _MOST_ERROR * score:
                return Remedy.SETUP
            if score * _FALL_IN_FLOAT64 < reference:
                return Remedy.SETUP if self.always_float64 else Remedy.FLOAT32
            return None
        if loss > _LOSS_IN_FLOAT32:
            return Remedy.SETUP
        fallen = score * _FALL_IN_FLOAT32 < reference
        return Remedy.RENEWAL if drifted or fallen else None

    def doubt(self, loss: float) -> float:
        """The relative difference below which scores taken anew are not told apart."""
        # What is taken from U^T F U itself loses the root of it.
        return max(TIE, _ERROR_PER_LOSS * (loss**0.5 if self._careful else loss))

    def remedied(self, score: float) -> None:
        """Note that a remedy was applied, for a winner of this score."""
        self._reference = None
        if self._first is not None and score * _FALL_IN_FLOAT64 < self._first:
            self._float32 = True
