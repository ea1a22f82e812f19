"""The greedy engine where asking the device costs more than the work: a GPU picks whole blocks.

The leaders' inner products E_ab = V_a M^-1 V_b^T and H_ab = V_a G V_b^T tell all that a block's
picks do to one another, so that `pick_block` makes T picks without a word to the host and
without touching anything of length k. With its X, N and Q, and Y, Z the picks' rows of V M^-1 and
V G as the block found them, stacked,

    (I +- N) U^T = X Y,   (I +- N) W^T = X Z -+ Q U^T

The host reads two small reports a block, of the picks and of the pass that verifies them. A pick
that is no clear one ends the block; as the first of a block it is left to the host's own rules.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from fishermask_fast.engine.blocks import Engine
from fishermask_fast.engine.directions import Update
from fishermask_fast.engine.state import Leaders, Updates
from fishermask_fast.memory import available_memory
from fishermask_fast.ops import PickedBlock, pick_block

# Two leaders whose scores, both taken anew, are closer than this (relative) may be equal samples.
_NEAR = 1e-6
# Each leader costs products with M^-1 and G, and one with every other leader.
_MOST_LEADERS_PER_PICK = 8
# One part in so many of the free memory is for their products.
_SHARE_OF_MEMORY = 4


def leaders_that_fit(r: int, k: int, block: int, free: int | None) -> int:
    """How many leaders leave their products within a share of the free memory; at least one.

    m of them take 16 (m r)^2 bytes for E and H, 24 m r k for V, Y and Z, and 16 m r^2 for what each
    of the block's picks does to them.

    Args:
        r: rows a sample.
        k: masked parameters.
        block: the most picks of a block.
        free: bytes; None where nobody can tell.
    """
    if free is None:
        return sys.maxsize
    squares, each = 16 * r**2, 24 * r * k + 16 * block * r**2
    left = free // _SHARE_OF_MEMORY
    return max(1, int((math.sqrt(each**2 + 4.0 * squares * left) - each) / (2 * squares)))


class BlockEngine(Engine):
    """An Engine that makes the picks of a block together; see Engine."""

    def _set_up(self) -> float:
        objective = super()._set_up()
        fisher = self._problem.fisher
        self._most_leaders = leaders_that_fit(
            self._pool.n_rows, len(fisher), self._pool.max_block, available_memory(fisher.device)
        )
        return objective

    def _leader_count(self, n_left: int) -> int:
        wanted = min(super()._leader_count(n_left), _MOST_LEADERS_PER_PICK * self._block)
        return min(wanted, self._most_leaders)

    def _pick_among(self, leaders: Leaders, size: int) -> tuple[list[Update], list[float]]:
        if self._careful or leaders.heirs is not None or len(leaders) > self._most_leaders:
            return super()._pick_among(leaders, size)
        rows = leaders.factors.to(dtype=torch.float64).dense() * self._problem.scale  # (m, r, k)
        flat = rows.flatten(0, 1)
        y, z = self._directions.products(flat)
        found = pick_block(
            y @ flat.T, z @ flat.T, leaders.state.traces, rows.shape[1], size, sign=self._sign
        )
        drift = leaders.state.scores - found.before
        report = torch.stack(
            [
                leaders.index[found.slots].double(),
                found.scores,
                found.runners_up,
                found.losses,
                drift[found.slots],
            ]
        )
        indices, scores, runners_up, losses, drifts = report.tolist()
        running = [score + left for score, left in zip(scores, drifts, strict=True)]
        clear = self._clear(scores, runners_up, losses, running)
        if clear == 0:
            return super()._pick_among(leaders, size)
        u, w = self._updates(found, y.view_as(rows), z.view_as(rows), clear)
        picks = [
            Update(int(index), score, *parts)
            for index, score, *parts in zip(
                indices, scores, rows[found.slots[:clear]], u, w, strict=False
            )
        ]
        updates = Updates(u.flatten(0, 1), w.flatten(0, 1), [rows.shape[1]] * clear)
        self._directions.add(updates)
        others = len(leaders) - clear
        if others:
            picked = torch.zeros_like(leaders.index).index_fill(0, found.slots[:clear], 1)
            # The others first, in their order, without asking how many they are.
            order = picked.argsort(stable=True)[:others]
            self._advance(leaders, order, updates, found.scores[:clear])
        return picks, running[:clear]

    def _clear(
        self,
        scores: list[float],
        runners_up: list[float],
        losses: list[float],
        running: list[float],
    ) -> int:
        """How many picks come before one that is in doubt, or that the state is too old for."""
        for t, (score, second, loss) in enumerate(zip(scores, runners_up, losses, strict=True)):
            near = max(_NEAR, self._policy.doubt(loss))
            if not math.isfinite(score) or second >= score - near * abs(score):
                return t
            first = abs(scores[0]) if t else None
            if self._policy.remedy(abs(score), abs(running[t]), loss, first) is not None:
                return t
        return len(scores)

    def _updates(
        self, found: PickedBlock, y: Tensor, z: Tensor, clear: int
    ) -> tuple[Tensor, Tensor]:
        """U^T and W^T of the first picks, (clear, r, k) each; y, z: (m, r, k)."""
        x, slots, r = found.x[:clear], found.slots[:clear], y.shape[1]
        width = clear * r
        n, q = found.n[:width, :width], found.q[:width, :width]
        lower = self._sign * n
        right = torch.bmm(x, y[slots]).flatten(0, 1)
        # unitriangular takes the diagonal of I +- N as read.
        u = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        right = torch.bmm(x, z[slots]).flatten(0, 1) - self._sign * q @ u
        w = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        return u.view(clear, r, -1), w.view(clear, r, -1)
