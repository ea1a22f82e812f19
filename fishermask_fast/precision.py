"""The precision policy of the selection, in one place.

Scores fall like 1/i^2 over the picks and B_x faster still, so A_x, B_x and G end as small
differences of large numbers, and the rounding of the early, large updates stays in them. Products
with V are therefore taken in float64 while scores fall steeply and in float32 after, and the state
is set up again, in float64, before what was left behind can decide a pick.
"""

from __future__ import annotations

# Scores closer than this (relative) are ties, which the lowest index wins: rounding must not decide
# between two equal samples.
TIE = 1e-9
# What rank updates may leave behind in a running score (relative). A candidate within this margin
# of the winner is scored anew from M^-1 and G before it is passed over.
_MARGIN_IN_FLOAT32 = 1e-4
_MARGIN_IN_FLOAT64 = 1e-6

# Falls of the top score since the last set-up that call for a new one. In float64 the error left
# behind grows with the square of the fall. Float32 products begin where the first of these is due.
_FALL_IN_FLOAT64 = 1e3
_FALL_IN_FLOAT32 = 64.0
# How many times B_x may have fallen since the last set-up, for the same reason.
_LARGEST_LOSS = 1e7
# Below this share of the first score rounding is all that is left to compare.
_NOTHING_LEFT = 1e-14


class PrecisionPolicy:
    """Which products to take in float64, and when to set the state up again.

    Args:
        always_float64: never take float32 products.
    """

    def __init__(self, always_float64: bool) -> None:
        self.always_float64 = always_float64
        self._first: float | None = None
        self._float32 = False
        self._reference: float | None = None  # the first score since the last set-up

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

    def stale(self, score: float, running: float, loss: float, first: float | None) -> bool:
        """Whether the state can no longer tell that the winner of this score has won.

        That is when scores, or B_x of a candidate near the top, have fallen far since the last
        set-up, or when the running score is off by more than a quarter of the margin. The first
        winner after a set-up is always believed.

        Args:
            score: the would-be winner's, taken anew.
            running: the same as rank updates have left it.
            loss: how many times the trace of B_x has fallen, at most, near the top.
            first: the score of the block's first winner, None before there is one.
        """
        reference = first if self._reference is None else self._reference
        if reference is None:
            return False
        if self._first is not None and score < _NOTHING_LEFT * self._first:
            return False
        fall = _FALL_IN_FLOAT64 if self.float64 else _FALL_IN_FLOAT32
        drifted = abs(running - score) > self.margin / 4 * score
        return drifted or score * fall < reference or loss > _LARGEST_LOSS

    def set_up(self, score: float) -> None:
        """Note a set-up, made for a winner of this score."""
        self._reference = None
        if self._first is not None and score * _FALL_IN_FLOAT64 < self._first:
            self._float32 = True
