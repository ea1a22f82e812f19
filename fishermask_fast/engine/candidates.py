"""The candidates of this process: where their gradients lie, and the state of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fishermask_fast.engine.leading import best, has_copies, how_many, kinds
from fishermask_fast.engine.state import Fresh, Leaders, Report, State, Updates
from fishermask_fast.engine.updating import take_updates
from fishermask_fast.factors import FactorSource, GradientFactors, check_finite
from fishermask_fast.triangles import packed

_MAX_BLOCK = 16
_MAX_LEADERS = 4096
# A GPU works out what every leader is to every other, which should cost no more than a pass over
# all; and it takes as long to be asked for a short pass as to make it. Who leads is then told on
# the host, among so many times more.
_MAX_DEVICE_BLOCK = 32
_DEVICE_LEADERS = (256, 2048)
_AMONG = 8
# Where a pass has to fetch the gradients first, it should serve more picks.
_MAX_FAR_BLOCK = 32
_MAX_FAR_LEADERS = 16384
# Numbers of V X at work in the safe form.
_SAFE_CHUNK_NUMBERS = 2**21


class LocalCandidates:
    """Candidates whose gradients this process holds, and their state.

    Args:
        factors: the gradients of the N candidates, in memory or not.
        scale: V = scale * factors.
        sign: 1 for picks, -1 for removals.
        chunk_size: samples at a time where a set-up needs working memory; None for about 32 MiB of
            it, on a GPU 512 MiB.
        gains: (N,) float64 factors on the candidates' gains; None for 1.
        clusters: (N,) int64, the cluster of each; None where nothing asks.
        barred: (N,) bool, who may not be picked; None for nobody.
        log_det: whether the gain is log det A.
    """

    def __init__(
        self,
        factors: FactorSource,
        scale: float,
        sign: int,
        chunk_size: int | None = None,
        *,
        gains: Tensor | None = None,
        clusters: Tensor | None = None,
        barred: Tensor | None = None,
        log_det: bool = False,
    ) -> None:
        self.scale = scale
        self.sign = sign
        self.max_block, self.max_leaders = _MAX_BLOCK, _MAX_LEADERS
        if not isinstance(factors, GradientFactors):
            self.max_block, self.max_leaders = _MAX_FAR_BLOCK, _MAX_FAR_LEADERS
        elif factors.device.type != "cpu":
            least, most = _DEVICE_LEADERS
            self.max_block = _MAX_DEVICE_BLOCK
            self.max_leaders = min(max(least, 2 * math.isqrt(len(factors))), most)
        self._factors = factors
        self._chunk_size = chunk_size
        self._clusters = clusters
        self._state = State.empty(len(factors), factors.n_rows, factors.device, gains, log_det)
        self._saved = (torch.empty_like(self._state.a), torch.empty_like(self._state.b))
        self._free = torch.ones(len(factors), dtype=torch.bool, device=factors.device)
        if barred is not None:
            self._free &= ~barred.to(factors.device)
        self._leaders = self._free.new_empty(0, dtype=torch.int64)
        self.kinds = self._leaders  # (N,) int64, see leading.py
        self._n_leaders = 0  # where samples have near copies
        self._copies = False  # asked once a set-up, so that no block waits for the answer
        # Updates that the saved A and B have not taken, and whether in float64; the state then is
        # that of a block that was cut, whose scores still tell who may lead the next one.
        self._waiting: Updates | None = None
        self._waiting_in_float64 = False

    def __len__(self) -> int:
        return len(self._factors)

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's V."""
        return self._factors.n_rows

    @property
    def head_index(self) -> Tensor | None:
        """The masked entries of the head, as in GradientFactors."""
        return self._factors.head_index

    @property
    def diagonal(self) -> Tensor:
        """As in State."""
        return self._state.diagonal

    @property
    def has_gains(self) -> bool:
        """Whether gains are weighted."""
        return self._state.gains is not None

    def rows(self, index: Sequence[int]) -> GradientFactors:
        """The gradients of some candidates, in memory."""
        device = self._factors.device
        return _working(self._factors[torch.tensor(index, dtype=torch.int64, device=device)])

    def _chunks(self) -> Iterator[tuple[int, GradientFactors]]:
        for start, chunk in self._factors.chunks():
            yield start, _working(chunk)

    def set_up(
        self,
        first: Tensor,
        second: Tensor,
        signs: Tensor | None = None,
        *,
        lamb: float | None = None,
        traces: bool,
    ) -> Fresh:
        """Every A, B and score anew, in float64.

        Where rounding leaves an A that is not positive definite, its diagonal is raised by as much
        as rounding may have taken.

        Args:
            first: (k, k) M^-1, or X in the safe form.
            second: (k, k) G, or S in the safe form; of no account where the gain is log det A.
            signs: (k,) the signs of the safe form: M^-1 = X X^T and G = S diag(signs) S^T.
            lamb: where M = lamb I, else None.
            traces: whether M^-1 and G are new as well.

        Raises:
            ValueError: gradients are not finite.
            OverflowError: A or B is not, or scores are not.
        """
        r, square = self.n_rows, self.scale**2 * self.sign
        empty = first.new_empty(0, first.shape[0])
        self._waiting = None
        largest, resolved = 0.0, True
        for start, chunk in self._chunks():
            state = self._state[start : start + len(chunk)]
            if signs is not None:
                a, b = self._safe_forms(chunk, first, second, signs)
            else:
                a, b = self._forms(chunk, first, second, lamb)
            a.mul_(square)
            if b is not None:
                a.diagonal(dim1=1, dim2=2).add_(1.0)
                state.b.copy_(packed(b)).mul_(square)
            state.a.copy_(packed(a))
            free = self._free[start : start + len(chunk)].nonzero().squeeze(1)
            nothing = (Updates(empty, empty, []), empty[:, 0])
            take_updates(state, chunk, free, *nothing, scale=self.scale, float64=True)
            if traces:
                state.traces.copy_(state.trace_b())
            lost = free[~state.scores[free].isfinite()] if self.sign > 0 else free[:0]
            if len(lost):
                check_finite(chunk, start)
                resolved = False
                state.raise_diagonal(lost)
                take_updates(state, chunk, lost, *nothing, scale=self.scale, float64=True)
                if not bool(state.scores[lost].isfinite().all()):
                    raise OverflowError
            if len(chunk):
                largest = max(largest, float(state.a.abs().max()))
        if traces:
            start = 0 if self._state.log_det else r
            self.kinds = kinds(self._state.a @ self.diagonal - start, self._state.traces)
            self._survey()
        return Fresh(largest, resolved)

    def _survey(self) -> None:
        """Note whether candidates have copies."""
        kinds = self.kinds[self._free]
        self._copies = has_copies(kinds)
        self._n_leaders = how_many(kinds, self.max_leaders) if self._copies else 0

    def _forms(
        self, chunk: GradientFactors, inverse: Tensor, double: Tensor, lamb: float | None
    ) -> tuple[Tensor, Tensor | None]:
        """V_x M^-1 V_x^T and V_x G V_x^T, the latter where there is a B."""
        size = self._chunk_size or chunk.default_chunk_size()
        if self._state.log_det:
            if lamb is not None:
                return chunk.grams().div_(lamb), None
            return chunk.quadratic_forms(inverse, chunk_size=size)[0], None
        if lamb is not None:
            (b,) = chunk.quadratic_forms(double, chunk_size=size)
            return chunk.grams().div_(lamb), b
        a, b = chunk.quadratic_forms(inverse, double, chunk_size=size)
        return a, b

    def _safe_forms(
        self, chunk: GradientFactors, x: Tensor, s: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The same as (V_x X) (V_x X)^T and (V_x S) diag(signs) (V_x S)^T."""
        r, k = self.n_rows, len(x)
        a = x.new_empty(len(chunk), r, r)
        b = None if self._state.log_det else torch.empty_like(a)
        size = self._chunk_size or max(1, _SAFE_CHUNK_NUMBERS // (r * k))
        for start, part in chunk.chunks(size):
            here = slice(start, start + len(part))
            rows = part.times(x)
            torch.bmm(rows, rows.mT, out=a[here])
            if b is not None:
                rows = part.times(s)
                torch.bmm(rows * signs, rows.mT, out=b[here])
        return a, b

    def begin(self, size: int, forced: Collection[int]) -> Leaders:
        """Begin a block: `size` candidates with the best scores, not all of one kind.

        The forced ones come first.
        """
        known = None
        if self._copies:
            known = self.kinds
            size = max(size, min(self._n_leaders, int(self._free.sum())))
        among = None if self._free.device.type == "cpu" else _AMONG * size
        return self.lead(best(self.free_scores(forced), known, size, among))

    def free_scores(self, forced: Collection[int]) -> Tensor:
        """(N,) scores; infinite for the forced ones, and minus infinite for those taken."""
        # NaN is a sample whose state rounding has spoiled, and that must be seen; of removals, one
        # without which M would be singular.
        nan = torch.inf * self.sign
        scores = self._state.scores.nan_to_num(nan=nan, posinf=torch.inf, neginf=-torch.inf)
        scores.masked_fill_(~self._free, -torch.inf)
        if forced:
            scores[list(forced)] = torch.inf
            # A cluster may have closed since one of them would have won.
            scores.masked_fill_(~self._free, -torch.inf)
        return scores

    def lead(self, index: Tensor) -> Leaders:
        """Begin a block with the leaders `index`, a LongTensor in ascending order."""
        self._leaders = index
        factors, state = _working(self._factors[index]), self._state[index]
        if self._waiting is not None:
            state = replace(state, a=self._saved[0][index], b=self._saved[1][index])
            take_updates(
                state,
                factors,
                torch.arange(len(index), device=index.device),
                self._waiting,
                self._waiting.never(),
                scale=self.scale,
                float64=self._waiting_in_float64,
            )
        return Leaders(index, factors, state)

    def verify(
        self,
        updates: Updates,
        thresholds: Sequence[float],
        *,
        float64: bool,
        closing: Sequence[int | None] = (),
    ) -> Report:
        """Take a block's updates to all candidates but its leaders; what they would have won.

        `closing` says which cluster each pick fills: its other samples win nothing after that.
        """
        limits = torch.tensor(thresholds, dtype=torch.float64, device="cpu")
        limits = limits.to(self._factors.device, non_blocking=True)
        n_waiting = 0
        if self._waiting is None:
            self._saved[0].copy_(self._state.a)
            self._saved[1].copy_(self._state.b)
        else:
            self._restore()
            n_waiting = len(self._waiting.ranks)
            updates = updates.after(self._waiting)
            limits = torch.cat([self._waiting.never(), limits])
            float64 = float64 or self._waiting_in_float64
        free = self._free.index_fill(0, self._leaders, False)
        until = self._until(closing, n_waiting)
        found = self._advance(free, updates, limits, float64, until)
        # Indices are exact in float64: one report and one wait for all of it.
        report = torch.stack([part[n_waiting:].double() for part in found])
        best, best_index, first_index = report.tolist()
        return Report(best, [int(i) for i in best_index], [int(i) for i in first_index])

    def _until(self, closing: Sequence[int | None], n_waiting: int) -> Tensor | None:
        """(N,) int64, the last update before which each candidate may win; None where all may."""
        if self._clusters is None or all(cluster is None for cluster in closing):
            return None
        until = torch.full_like(self._clusters, torch.iinfo(torch.int64).max)
        for at, cluster in enumerate(closing):
            if cluster is not None:
                until[self._clusters == cluster] = n_waiting + at
        return until

    def keep(self, leaders: Leaders, taken: Sequence[int], closed: Sequence[int] = ()) -> None:
        """End a block whose picks all stand; `leaders` hold their state after it.

        `closed` clusters have had all their picks.
        """
        self._state.put(leaders.index, leaders.state)
        self._waiting = None
        self._take(taken, closed)

    def cut(
        self,
        leaders: Leaders,
        updates: Updates,
        taken: Sequence[int],
        *,
        float64: bool,
        closed: Sequence[int] = (),
    ) -> bool:
        """End a block of which only the first picks stand; `updates` are theirs, as is `closed`.

        Returns:
            Whether so many updates were waiting that it took a pass to bring them in.
        """
        # Copies: the caller's own memory is used again.
        updates = Updates(updates.u.clone(), updates.w.clone(), updates.ranks)
        self._state.scores.index_copy_(0, leaders.index, leaders.state.scores)
        self._take(taken, closed)
        if self._waiting is not None:
            updates = updates.after(self._waiting)
            float64 = float64 or self._waiting_in_float64
        self._waiting, self._waiting_in_float64 = updates, float64
        if len(updates.ranks) < self.max_block:
            return False
        self._restore()
        self._advance(self._free, updates, updates.never(), float64)
        self._waiting = None
        return True

    def _restore(self) -> None:
        self._state.a.copy_(self._saved[0])
        self._state.b.copy_(self._saved[1])

    def _take(self, taken: Sequence[int], closed: Sequence[int]) -> None:
        index = torch.tensor(taken, dtype=torch.int64, device=self._free.device)
        self._free.index_fill_(0, index, False)
        if closed and self._clusters is not None:
            self._free &= ~torch.isin(self._clusters, self._clusters.new_tensor(list(closed)))

    def _advance(
        self,
        chosen: Tensor,
        updates: Updates,
        thresholds: Tensor,
        float64: bool,
        until: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take updates to the candidates that the mask `chosen` (N,) names."""
        n = len(self)
        best = torch.full_like(thresholds, -torch.inf)
        best_index = torch.full_like(thresholds, n, dtype=torch.int64)
        first_index = best_index.clone()
        for start, chunk in self._chunks():
            stop = start + len(chunk)
            index = chosen[start:stop].nonzero().squeeze(1)
            here, here_index, here_first = take_updates(
                self._state[start:stop],
                chunk,
                index,
                updates,
                thresholds,
                scale=self.scale,
                float64=float64,
                until=None if until is None else until[start:stop],
            )
            better = here > best
            best = torch.where(better, here, best)
            best_index = torch.where(better, here_index + start, best_index)
            found = (here_first < len(chunk)) & (first_index == n)
            first_index = torch.where(found, here_first + start, first_index)
        return best, best_index, first_index


def _working(factors: GradientFactors) -> GradientFactors:
    """The factors in a dtype that the ops take."""
    if factors.dtype in (torch.float16, torch.bfloat16):
        return factors.to(dtype=torch.float32)
    return factors
