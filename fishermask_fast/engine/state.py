"""What a selection keeps of its candidates, and what passes between them and the engine.

Every candidate x keeps A_x = I + V_x M^-1 V_x^T and B_x = V_x G V_x^T and its score tr(A_x^-1 B_x)
(with the signs of blocks.py for removals). A block of picks goes through four steps:

    begin    the leaders, with copies of their gradients and of their state
    verify   all others take the block's updates, and tell which of them would have won
    keep     the leaders' own state comes back, and the picks leave the pool; or
    cut      the state goes back to `begin`, and the updates of the picks that stand wait for the
             next block's pass, which takes them first
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fishermask_fast.factors import GradientFactors
from fishermask_fast.ops import selection as ops

# What rounding may take from an eigenvalue of A, for each row, as a share of A's largest entry.
_ROUNDING_SHARE = 1e-15


class Updates(NamedTuple):
    """U^T and W^T of some picks, one below the other, and how many rows belong to each."""

    u: Tensor  # (sum of ranks, k) float64
    w: Tensor  # (sum of ranks, k) float64
    ranks: list[int]

    def after(self, earlier: Updates) -> Updates:
        """Both, the earlier ones first."""
        u, w = torch.cat([earlier.u, self.u]), torch.cat([earlier.w, self.w])
        return Updates(u, w, earlier.ranks + self.ranks)


class Fresh(NamedTuple):
    """What a set-up saw of the state that it made."""

    largest: float  # entry of any |V_x M^-1 V_x^T|, to within one
    resolved: bool = True  # whether float64 told every A_x from a singular matrix


class Report(NamedTuple):
    """What a pass saw before each of its T updates; an index is N where there is none."""

    best: list[float]  # the largest score
    best_index: list[int]  # its lowest index
    first_index: list[int]  # the lowest index with a score of at least the threshold


@dataclass(frozen=True)
class State:
    """A and B as packed lower triangles, scores, and |tr B| at the last set-up, of n candidates."""

    a: Tensor  # (n, r (r + 1) / 2) float64
    b: Tensor  # (n, r (r + 1) / 2) float64
    scores: Tensor  # (n,) float64
    traces: Tensor  # (n,) float64
    diagonal: Tensor  # (r (r + 1) / 2,) float64, 1 where the diagonal of a triangle lies

    @staticmethod
    def empty(n: int, r: int, device: torch.device) -> State:
        rows, columns = torch.tril_indices(r, r, device=device)
        diagonal = (rows == columns).double()
        a = diagonal.new_empty(n, diagonal.numel())
        return State(a, torch.empty_like(a), a.new_empty(n), a.new_empty(n), diagonal)

    def __getitem__(self, index: Tensor | slice) -> State:
        """Views for a slice, copies for a LongTensor."""
        return State(
            self.a[index], self.b[index], self.scores[index], self.traces[index], self.diagonal
        )

    def put(self, index: Tensor, part: State) -> None:
        """Replace A, B and scores of some candidates, a LongTensor, in place."""
        self.a.index_copy_(0, index, part.a)
        self.b.index_copy_(0, index, part.b)
        self.scores.index_copy_(0, index, part.scores)

    def raise_diagonal(self, index: Tensor) -> None:
        """Add to the A of some candidates what rounding may have taken from them, in place."""
        a = self.a[index]
        share = _ROUNDING_SHARE * float(self.diagonal.sum())
        a += self.diagonal * (share * a.abs().amax(1, keepdim=True))
        self.a.index_copy_(0, index, a)

    def trace_b(self) -> Tensor:
        """|tr B| as it is now, (n,)."""
        return (self.b @ self.diagonal).abs_()

    def advance(
        self,
        factors: GradientFactors,
        index: Tensor,
        updates: Updates,
        thresholds: Tensor,
        *,
        scale: float,
        float64: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take updates to some candidates, in place; see ops.score_update."""
        return ops.score_update(
            factors,
            index,
            *updates,
            thresholds,
            self.a,
            self.b,
            self.scores,
            scale=scale,
            float64_products=float64,
        )


@dataclass(frozen=True)
class Leaders:
    """The m best candidates of a block, apart from the pool."""

    index: Tensor  # (m,) int64, ascending: their places in the pool
    factors: GradientFactors  # in memory
    state: State

    def __len__(self) -> int:
        return self.index.numel()


class Candidates(Protocol):
    """What the engine asks of a pool; see the module."""

    scale: float
    sign: int
    # Picks that one pass may verify, and candidates that may be compared for them, at most.
    max_block: int
    max_leaders: int

    def __len__(self) -> int: ...

    @property
    def n_rows(self) -> int: ...

    def rows(self, index: Sequence[int]) -> GradientFactors: ...

    def set_up(
        self,
        first: Tensor,
        second: Tensor,
        signs: Tensor | None = None,
        *,
        lamb: float | None = None,
        traces: bool,
    ) -> Fresh: ...

    def begin(self, size: int, forced: Collection[int]) -> Leaders: ...

    def verify(self, updates: Updates, thresholds: Sequence[float], *, float64: bool) -> Report: ...

    def keep(self, leaders: Leaders, taken: Sequence[int]) -> None: ...

    def cut(
        self, leaders: Leaders, updates: Updates, taken: Sequence[int], *, float64: bool
    ) -> bool: ...
