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

_FALL_TO_FLOAT32 = 1e3
# Falls of the top score since the last set-up, or since float32 products began, that call for a
# new one. In float64 the error left behind grows with the square of the fall.
_FALL_IN_FLOAT32 = 64.0
_FALL_IN_FLOAT64 = 1e5


class PrecisionPolicy:
    """Which products to take in float64, and when to set the state up again.

    Args:
        always_float64: never take float32 products.
    """

    def __init__(self, always_float64: bool) -> None:
        self.always_float64 = always_float64
        self._first: float | None = None
        self._float32 = False
        self._reference: float | None = None  # the score that falls are counted from
        self._worst_error = 0.0

    @property
    def float64(self) -> bool:
        """Whether the next products are taken in float64."""
        return self.always_float64 or not self._float32

    @property
    def margin(self) -> float:
        """How close running scores must be for their order to be doubtful."""
        return _MARGIN_IN_FLOAT64 if self.float64 else _MARGIN_IN_FLOAT32

    def observe(self, score: float, running: float) -> None:
        """Note a winner's float64 score and what its running score was."""
        if self._first is None:
            self._first = score
        if self._reference is None:
            self._reference = score
        if score > 0.0:
            self._worst_error = max(self._worst_error, abs(running - score) / score)
        if self.float64 and not self.always_float64 and score * _FALL_TO_FLOAT32 < self._first:
            self._float32 = True
            self._reference = score
            self._worst_error = 0.0

    def setup_due(self, score: float) -> bool:
        """Whether the picks after one of this score need a state that is set up again.

        That is when scores have fallen far since the last time, or when a winner's running score
        was off by more than a quarter of the margin.
        """
        fall = _FALL_IN_FLOAT64 if self.float64 else _FALL_IN_FLOAT32
        fallen = self._reference is not None and score * fall < self._reference
        return fallen or self._worst_error > self.margin / 4

    def set_up(self) -> None:
        """Note a set-up."""
        self._reference = None
        self._worst_error = 0.0
