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
from fishermask_fast.triangles import packed

# What rounding may take from an eigenvalue of A, for each row, as a share of A's largest entry.
_ROUNDING_SHARE = 1e-15


class Updates(NamedTuple):
    """U^T and W^T of some picks, one below the other, and how many rows belong to each."""

    u: Tensor  # (sum of ranks, k) float64
    w: Tensor  # (sum of ranks, k) float64
    ranks: list[int]

    def never(self) -> Tensor:
        """Thresholds that no score reaches, one an update."""
        return self.u.new_full((len(self.ranks),), torch.inf)

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
    """A and B as packed lower triangles, scores, and |tr B| at the last set-up, of n candidates.

    Where the gain is log det A, `a` holds A - I, of which `traces` are then, and there is no B.
    """

    a: Tensor  # (n, r (r + 1) / 2) float64
    b: Tensor  # (n, r (r + 1) / 2) float64, or (n, 0)
    scores: Tensor  # (n,) float64, times the candidates' gains
    traces: Tensor  # (n,) float64, likewise
    diagonal: Tensor  # (r (r + 1) / 2,) float64, 1 where the diagonal of a triangle lies
    gains: Tensor | None = None  # (n,) float64, None where all are 1

    @staticmethod
    def empty(
        n: int, r: int, device: torch.device, gains: Tensor | None = None, log_det: bool = False
    ) -> State:
        diagonal = packed(torch.eye(r, dtype=torch.float64, device=device))
        a = diagonal.new_empty(n, diagonal.numel())
        b = a.new_empty(n, 0) if log_det else torch.empty_like(a)
        return State(a, b, a.new_empty(n), a.new_empty(n), diagonal, gains)

    @property
    def log_det(self) -> bool:
        """Whether the gain is log det A."""
        return self.b.shape[1] == 0

    def __getitem__(self, index: Tensor | slice) -> State:
        """Views for a slice, copies for a LongTensor."""
        gains = None if self.gains is None else self.gains[index]
        parts = (self.a[index], self.b[index], self.scores[index], self.traces[index])
        return State(*parts, self.diagonal, gains)

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
        """|tr B| as it is now, or |tr (A - I)|, times the gains, (n,)."""
        traces = ((self.a if self.log_det else self.b) @ self.diagonal).abs_()
        return traces if self.gains is None else traces.mul_(self.gains)


@dataclass(frozen=True)
class Leaders:
    """The m best candidates of a block, apart from the pool."""

    index: Tensor  # (m,) int64, ascending: their places in the pool
    factors: GradientFactors  # in memory
    state: State
    # (N,) int64, the equal sample that comes in for each when that is picked, N for none.
    heirs: Tensor | None = None

    def __len__(self) -> int:
        return self.index.numel()

    def inherit(self, slot: int) -> bool:
        """Put an equal sample in the place of the one picked at `slot`; whether there is one."""
        if self.heirs is None:
            return False
        heir = int(self.heirs[self.index[slot]])
        if heir == len(self.heirs):
            return False
        self.index[slot] = heir
        return True


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

    def verify(
        self,
        updates: Updates,
        thresholds: Sequence[float],
        *,
        float64: bool,
        closing: Sequence[int | None] = (),
    ) -> Report: ...

    def keep(self, leaders: Leaders, taken: Sequence[int], closed: Sequence[int] = ()) -> None: ...

    def cut(
        self,
        leaders: Leaders,
        updates: Updates,
        taken: Sequence[int],
        *,
        float64: bool,
        closed: Sequence[int] = (),
    ) -> bool: ...
