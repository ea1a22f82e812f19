"""What the selection is compared with, all of it with the same inputs and the same picks.

`published` recomputes every score at every pick, as the public codes do; `torch` takes the rank
updates of the scores in plain torch on the dense tensor, in float64 until the top score has fallen
a thousandfold and in float32 after; `compiled` is that under torch.compile.

    P = V U,  R = V W,  A <- A - P P^T,  B <- B - P R^T - R P^T,  score = tr(A^-1 B)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fishermask_fast import reference

PUBLISHED_CHUNK = 200
_FALL_TO_FLOAT32 = 1000.0
_FALL_TO_SETUP = 64.0


@dataclass(frozen=True)
class Task:
    """One selection without labeled samples or backward steps."""

    gradients: Tensor  # (N, r, k)
    n_select: int
    fisher: Tensor  # (k, k) float64
    lamb: float = 1.0


@dataclass(frozen=True)
class Timed:
    """The picks, and the seconds that set-up and every pick took."""

    picks: list[int]
    setup: float
    each: list[float]

    @property
    def total(self) -> float:
        return self.setup + sum(self.each)


def published_scores(v: Tensor, inverse: Tensor, fisher: Tensor) -> Tensor:
    """Every score anew, with the public codes' products in their order, from left to right."""
    eye = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
    out = []
    for x in v.split(PUBLISHED_CHUNK):
        inner = torch.inverse(eye + x @ inverse @ x.mT)
        change = x @ inverse @ fisher @ inverse @ x.mT @ inner
        out.append(change.diagonal(dim1=1, dim2=2).sum(1))
    return torch.cat(out)


def published(task: Task, n_picks: int | None = None) -> Timed:
    """The public codes' selection in the gradients' dtype; n_picks < n_select stops early."""
    start = time.perf_counter()
    v = task.gradients
    fisher = task.fisher.to(v.dtype)
    precision = reference.initial_precision(fisher, None, task.n_select, task.lamb, 0)
    setup = time.perf_counter() - start
    picks: list[int] = []
    each = []
    for _ in range(task.n_select if n_picks is None else n_picks):
        start = time.perf_counter()
        score = published_scores(v, precision, fisher)
        score[picks] = -torch.inf
        picks.append(int(score.argmax()))
        precision = reference.change_precision(precision, v[picks[-1]])
        each.append(time.perf_counter() - start)
    return Timed(picks, setup, each)


def update_scores(flat: Tensor, uw: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One rank update of A and B, and the scores after it.

    flat: (N r, k) V; uw: (k, 2 q) [U W] in the dtype of the product; a, b: (N, r, r) float64.
    """
    q = uw.shape[1] // 2
    pr = (flat @ uw).view(len(a), -1, 2 * q).to(a.dtype)
    p, r = pr[..., :q], pr[..., q:]
    a = torch.baddbmm(a, p, p.mT, alpha=-1)
    cross = p @ r.mT
    b = b - cross - cross.mT
    factor = torch.linalg.cholesky_ex(a).L
    score = torch.cholesky_solve(b, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    return a, b, score


@cache
def compiled_update() -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(update_scores, dynamic=False)


class RankUpdates:
    """Greedy selection by rank updates in plain torch.

    V is widened once for as long as products are in float64: the conversion would otherwise cost
    more than the product.
    """

    def __init__(self, task: Task, compiled: bool = False) -> None:
        self.task = task
        self.picks: list[int] = []
        self.setups = 0
        self._update = compiled_update() if compiled else update_scores
        self._n, self._r, self._k = task.gradients.shape
        self._narrow = task.gradients.reshape(-1, self._k)
        self._wide: Tensor | None = self._narrow.double()
        self._top: float | None = None  # of the first pick, then of the last set-up
        self._free = torch.ones(self._n, dtype=torch.bool)
        self.set_up()

    @property
    def float64(self) -> bool:
        return self._wide is not None

    def set_up(self) -> None:
        """M^-1 and every A, B and score from their definitions, in float64."""
        self.setups += 1
        v = self._narrow if self._wide is None else self._wide
        taken = self.task.gradients[self.picks].reshape(-1, self._k).double()
        m = self.task.lamb * torch.eye(self._k, dtype=torch.float64) + taken.T @ taken
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(m))
        double = self.inverse @ self.task.fisher @ self.inverse
        self.a = torch.empty(self._n, self._r, self._r, dtype=torch.float64)
        self.b = torch.empty_like(self.a)
        for start in range(0, self._n, PUBLISHED_CHUNK):
            chunk = v.view(self._n, self._r, self._k)[start : start + PUBLISHED_CHUNK].double()
            flat = chunk.reshape(-1, self._k)
            stop = start + len(chunk)
            torch.bmm((flat @ self.inverse).view_as(chunk), chunk.mT, out=self.a[start:stop])
            torch.bmm((flat @ double).view_as(chunk), chunk.mT, out=self.b[start:stop])
        self.a.diagonal(dim1=1, dim2=2).add_(1.0)
        factor = torch.linalg.cholesky_ex(self.a).L
        solved = torch.cholesky_solve(self.b, factor)
        self.score = solved.diagonal(dim1=-2, dim2=-1).sum(-1)

    def pick(self) -> int:
        """Picks the best, and brings everything up to date."""
        best = int(self.score.masked_fill(~self._free, -torch.inf).argmax())
        v = self.task.gradients[best].double()
        left = self.inverse @ v.T
        gram = torch.eye(self._r, dtype=torch.float64) + v @ left
        # U = M^-1 V^T L with L L^T = A^-1, so L is the inverse of A's factor, transposed.
        u = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), left.T, upper=False).T
        fu = self.task.fisher @ u
        inner = u.T @ fu
        w = self.inverse @ fu - u @ (inner / 2)
        self.inverse.addmm_(u, u.T, alpha=-1)
        self.picks.append(best)
        self._free[best] = False
        self._follow(float(inner.trace()))
        flat = self._narrow if self._wide is None else self._wide
        self.a, self.b, self.score = self._update(
            flat, torch.cat([u, w], 1).to(flat.dtype), self.a, self.b
        )
        if self._due:
            self.set_up()
        return best

    def _follow(self, score: float) -> None:
        self._due = False
        if self._top is None:
            self._top = score
        elif self.task.gradients.dtype == torch.float64:
            return
        elif self.float64 and score * _FALL_TO_FLOAT32 < self._top:
            self._wide, self._top = None, score
        elif not self.float64 and score * _FALL_TO_SETUP < self._top:
            self._due, self._top = True, score


def torch_updates(task: Task, n_picks: int | None = None, compiled: bool = False) -> Timed:
    """The rank updates in plain torch, or under torch.compile."""
    start = time.perf_counter()
    state = RankUpdates(task, compiled)
    setup = time.perf_counter() - start
    each = []
    for _ in range(task.n_select if n_picks is None else n_picks):
        start = time.perf_counter()
        state.pick()
        each.append(time.perf_counter() - start)
    return Timed(state.picks, setup, each)


def extrapolated(timed: Timed, n_select: int) -> float:
    """Seconds for n_select picks where each costs what the median of those taken did."""
    return timed.setup + n_select * float(torch.tensor(timed.each, dtype=torch.float64).median())
