"""The precision policy of the selection, in one place.

Scores fall like 1/i^2 over the picks, so A_x and B_x end as small differences of large numbers, and
the rounding of the early, large updates stays in them. Products with V are therefore taken in
float64 while scores fall steeply and in float32 after; every set-up is in float64.
"""

from __future__ import annotations

# Scores closer than this (relative) are ties, which the lowest index wins: rounding in the set-up
# must not decide between two equal samples.
TIE = 1e-9
# What float32 products may leave behind in a score (relative). A candidate within MARGIN of the
# winner is scored again in float64 before it is passed over.
MARGIN = 1e-4

_FALL_TO_FLOAT32 = 1000.0
_FALL_TO_SETUP = 64.0


class PrecisionPolicy:
    """Which products to take in float64, and when to set the state up again.

    Args:
        always_float64: never take float32 products.
    """

    def __init__(self, always_float64: bool) -> None:
        self.always_float64 = always_float64
        self._first: float | None = None
        self._reference: float | None = None  # top score when float32 began or at the last set-up
        self._worst_error = 0.0

    @property
    def float64(self) -> bool:
        """Whether the next products are taken in float64."""
        return self.always_float64 or self._reference is None

    def observe(self, score: float, running: float) -> None:
        """Note a winner's float64 score and what its running score was."""
        if self._first is None:
            self._first = score
        if self._reference is None:
            if score * _FALL_TO_FLOAT32 < self._first:
                self._reference = score
        elif score > 0.0:
            self._worst_error = max(self._worst_error, abs(running - score) / score)

    def setup_due(self, score: float) -> bool:
        """Whether float32 has left behind what the picks after one of this score cannot bear.

        That is when scores have fallen 64 times since the last set-up, or when a winner's running
        score was off by more than a quarter of MARGIN.
        """
        if self.float64 or self._reference is None:
            return False
        return score * _FALL_TO_SETUP < self._reference or self._worst_error > MARGIN / 4

    def set_up(self, score: float | None) -> None:
        """Note a set-up, made when the last winner's score was `score`."""
        self._worst_error = 0.0
        if self._reference is not None and score is not None:
            self._reference = score
