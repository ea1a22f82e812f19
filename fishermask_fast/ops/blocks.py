"""The compiled op that makes a whole block of picks: its typed wrapper and its fake kernel.

With U = M^-1 V_s^T L of each pick s, P = V U and R = V W of all leaders at once,

    E <- E -+ P P^T,   H <- H -+ (P R^T + R P^T),   score(a) = +- tr((I +- E_aa)^-1 H_aa)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fishermask_fast.ops import loading  # noqa: F401  registers the ops


class PickedBlock(NamedTuple):
    """Greedy picks among some leaders.

    Attributes:
        slots: (T,) int64, each pick's place among the leaders.
        scores: (T,) its score; NaN where some leader's score is none.
        runners_up: (T,) the best score beside it, -inf where there is no other.
        losses: (T,) the most that |tr B| has fallen from `setup_traces` among the best leaders.
        x: (T, r, r) X_t, with U_t^T = X_t Y_t for Y_t of the pick at its moment.
        n: (T r, T r) N, strictly lower by blocks: N_ti = X_t V_t U_i.
        q: (T r, T r) Q likewise, with R for P, and K_t / 2 on the diagonal.
        before: (m,) every leader's score before the first pick.
    """

    slots: Tensor
    scores: Tensor
    runners_up: Tensor
    losses: Tensor
    x: Tensor
    n: Tensor
    q: Tensor
    before: Tensor


def pick_block(
    e: Tensor,  # (m r, m r) float64
    h: Tensor,  # (m r, m r) float64
    setup_traces: Tensor,  # (m,) float64
    rows: int,
    size: int,
    *,
    sign: int = 1,
    reach: float = 0.9,
) -> PickedBlock:
    """Picks the best of m leaders `size` times over, each pick changing the others' scores.

    Everything is told by the leaders' inner products; nothing has the length k. With
    A_a = I +- E_aa, B_a = +- H_aa and score tr(A_a^-1 B_a), the lowest leader of equal scores wins.

    Args:
        e: E_ab = V_a M^-1 V_b^T of all pairs of leaders, (r, r) blocks.
        h: H_ab = V_a G V_b^T likewise.
        setup_traces: |tr B| of each leader when the state was set up.
        rows: r.
        size: T, how many to pick, 0..m.
        sign: 1 for picks, -1 for removals.
        reach: which leaders count for `losses`: those with scores of at least (1 - reach) times the
            best.

    Raises:
        TypeError: a dtype other than stated.
        ValueError: a shape other than stated, or tensors on different devices.
    """
    m = setup_traces.numel()
    shapes = {"e": (m * rows, m * rows), "h": (m * rows, m * rows), "setup_traces": (m,)}
    given = {"e": e, "h": h, "setup_traces": setup_traces}
    for name, tensor in given.items():
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be float64; got {tensor.dtype}")
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]}; got {tuple(tensor.shape)}")
        if tensor.device != e.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {e.device}")
    if not 0 <= size <= m:
        raise ValueError(f"size must be within 0..{m}, the leaders; got {size}")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1; got {sign}")
    found = torch.ops.fishermask_fast.pick_block(
        e.contiguous(), h.contiguous(), setup_traces.contiguous(), rows, size, sign, reach
    )
    return PickedBlock(*found)


@torch.library.register_fake("fishermask_fast::pick_block")  # type: ignore[untyped-decorator]
def _pick_block_fake(
    e: Tensor, h: Tensor, setup_traces: Tensor, rows: int, size: int, sign: int, reach: float
) -> tuple[Tensor, ...]:
    m, wide = setup_traces.shape[0], size * rows
    slots = e.new_empty(size, dtype=torch.int64)
    shapes = [(size,)] * 3 + [(size, rows, rows), (wide, wide), (wide, wide), (m,)]
    return (slots, *(e.new_empty(shape) for shape in shapes))
