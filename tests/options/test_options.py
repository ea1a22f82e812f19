"""Declared names are those that the functions behind them know."""

from __future__ import annotations

from fishermask_fast import options, strategies
from fishermask_fast.selector import MASKS


def test_declared_names_are_known() -> None:
    assert tuple(strategies.STRATEGIES) == options.STRATEGIES
    assert MASKS == options.MASKS
