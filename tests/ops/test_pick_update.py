"""What pick_update and fold_updates refuse; test_ops.py has what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fishermask_fast.ops import selection as ops

ROWS = torch.zeros(2, 3, 5, dtype=torch.float64)
MATRIX = torch.eye(5, dtype=torch.float64)
UPDATES = torch.zeros(4, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "y", "error", "message"),
    [
        (ROWS[0], ROWS, ValueError, r"rows must have shape \(n, r, k\); got \(3, 5\)"),
        (ROWS, ROWS[:1], ValueError, r"y must have shape \(2, 3, 5\); got \(1, 3, 5\)"),
        (ROWS, ROWS.float(), TypeError, r"y must be float64; got torch.float32"),
        (ROWS, torch.zeros(2, 5, 3, dtype=torch.float64).mT, ValueError, "y must be contiguous"),
        (ROWS, ROWS.to("meta"), ValueError, "y must be on the CPU; got meta"),
    ],
)
def test_pick_update_refuses(rows: Tensor, y: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.pick_update(rows, y, ROWS)


@pytest.mark.parametrize(
    ("second", "u", "error", "message"),
    [
        (MATRIX, UPDATES[0], ValueError, r"u must have shape \(h, k\); got \(5,\)"),
        (MATRIX[:4], UPDATES, ValueError, r"second must have shape \(5, 5\); got \(4, 5\)"),
        (MATRIX, UPDATES.float(), TypeError, r"u must be float64; got torch.float32"),
        (MATRIX, UPDATES[:3], ValueError, r"w must have shape \(3, 5\); got \(4, 5\)"),
    ],
)
def test_fold_updates_refuses(
    second: Tensor, u: Tensor, error: type[Exception], message: str
) -> None:
    first = MATRIX.clone()
    with pytest.raises(error, match=message):
        ops.fold_updates(first, second, u, UPDATES)
    assert torch.equal(first, MATRIX)
