"""Candidates spread over the processes of a torch.distributed group.

Rank 0 picks; every rank holds the gradients and the state of its own shard. A block of picks costs

    begin     each rank's best scores, then the leaders' gradients and state, to rank 0
    verify    U and W of the block from rank 0, and a report of T numbers from each rank
    keep      the leaders' state from rank 0

and the picks are those of one process that holds all, ties by lowest place in the whole pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from fishermask_fast.distributed.exchange import Answer, Exchange, LostContact
from fishermask_fast.engine import Fresh, Leaders, LocalCandidates, Report, State, Updates, best
from fishermask_fast.factors import GradientFactors

T = TypeVar("T")

_DONE, _FAILED = "done", "failed"


class Shard:
    """What a rank does with its own candidates, which have places in the whole pool.

    Args:
        local: the candidates.
        places: (n,) int64, ascending.
        n_total: candidates of all ranks.
    """

    def __init__(self, local: LocalCandidates, places: Tensor, n_total: int) -> None:
        self.local = local
        self.places = places
        self.n_total = n_total

    def _own(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Which of some places are here (positions in `wanted`), and where."""
        if not len(self.places):
            return wanted[:0], wanted[:0]
        slots = torch.searchsorted(self.places, wanted).clamp_(max=len(self.places) - 1)
        here = (self.places[slots] == wanted).nonzero().squeeze(1)
        return here, slots[here]

    def _own_list(self, wanted: Collection[int]) -> list[int]:
        index = torch.tensor(list(wanted), dtype=torch.int64, device=self.places.device)
        return [int(slot) for slot in self._own(index)[1]]

    def rows(self, wanted: Tensor) -> Answer:
        here, slots = self._own(wanted)
        return Answer(None, (here, *_parts(self.local.rows(slots.tolist()))))

    def set_up(self, lamb: float | None, traces: bool, *matrices: Tensor) -> Answer:
        return Answer(tuple(self.local.set_up(*matrices, lamb=lamb, traces=traces)))

    def best(self, size: int, forced: list[int]) -> Answer:
        """The best scores here, of which kinds, and whose they are."""
        scores = self.local.free_scores(self._own_list(forced))
        index = best(scores, self.local.kinds, min(size, len(self.places)))
        return Answer(None, (scores[index], self.local.kinds[index], self.places[index]))

    def lead(self, chosen: Tensor) -> Answer:
        """The leaders that are here."""
        self._here, slots = self._own(chosen)
        self._leaders = leaders = self.local.lead(slots)
        state = leaders.state
        whole = [state.a, state.b, state.scores, state.traces]
        if state.gains is not None:
            whole.append(state.gains)
        return Answer(None, (self._here, *whole, *_parts(leaders.factors)))

    def verify(
        self,
        thresholds: list[float],
        float64: bool,
        ranks: list[int],
        closing: list[int | None],
        u: Tensor,
        w: Tensor,
    ) -> Answer:
        updates = Updates(u, w, ranks)
        report = self.local.verify(updates, thresholds, float64=float64, closing=closing)
        return Answer(
            Report(report.best, self._places(report.best_index), self._places(report.first_index))
        )

    def _places(self, slots: list[int]) -> list[int]:
        n = len(self.places)
        return [int(self.places[slot]) if slot < n else self.n_total for slot in slots]

    def keep(
        self, taken: list[int], closed: list[int], a: Tensor, b: Tensor, scores: Tensor
    ) -> Answer:
        """The state of all leaders comes back; of those here it is taken."""
        state = replace(
            self._leaders.state, a=a[self._here], b=b[self._here], scores=scores[self._here]
        )
        self.local.keep(replace(self._leaders, state=state), self._own_list(taken), closed)
        return Answer()

    def cut(
        self,
        taken: list[int],
        float64: bool,
        ranks: list[int],
        closed: list[int],
        u: Tensor,
        w: Tensor,
        scores: Tensor,
    ) -> Answer:
        leaders = replace(
            self._leaders, state=replace(self._leaders.state, scores=scores[self._here])
        )
        updates, own = Updates(u, w, ranks), self._own_list(taken)
        return Answer(self.local.cut(leaders, updates, own, float64=float64, closed=closed))


class ShardedCandidates:
    """The candidates of all ranks, as rank 0 picks from them; see Candidates."""

    max_block = 32
    # Rank 0 alone keeps their state while it picks, and all of it goes over the network.
    max_leaders = 512

    def __init__(self, shard: Shard, exchange: Exchange) -> None:
        self.scale = shard.local.scale
        self.sign = shard.local.sign
        self._shard = shard
        self._exchange = exchange

    def __len__(self) -> int:
        return self._shard.n_total

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's V."""
        return self._shard.local.n_rows

    def rows(self, index: Sequence[int]) -> GradientFactors:
        wanted = torch.tensor(index, dtype=torch.int64, device=self._shard.places.device)
        return self._factors(*self._gathered("rows", wanted))

    def set_up(
        self,
        first: Tensor,
        second: Tensor,
        signs: Tensor | None = None,
        *,
        lamb: float | None = None,
        traces: bool,
    ) -> Fresh:
        matrices = (first, second) if signs is None else (first, second, signs)
        answers = self._ask("set_up", (lamb, traces), *matrices)
        found: list[Fresh] = [Fresh(*answer.value) for answer in answers]
        return Fresh(max(each.largest for each in found), all(each.resolved for each in found))

    def begin(self, size: int, forced: Collection[int]) -> Leaders:
        answers = self._ask("best", (size, sorted(forced)))
        found = zip(*(answer.tensors for answer in answers), strict=True)
        scores, kinds, places = (torch.cat(parts) for parts in found)
        # By place, so that ties go to the lowest.
        places, order = places.sort()
        chosen = places[best(scores[order], kinds[order], min(size, len(places)))]
        order, parts = self._gathered("lead", chosen)
        n_state = 4 + self._shard.local.has_gains
        a, b, scores, traces, *gains = (part[order] for part in parts[:n_state])
        state = State(a, b, scores, traces, self._shard.local.diagonal, *gains)
        return Leaders(chosen, self._factors(order, parts[n_state:]), state)

    def verify(
        self,
        updates: Updates,
        thresholds: Sequence[float],
        *,
        float64: bool,
        closing: Sequence[int | None] = (),
    ) -> Report:
        arguments = (list(thresholds), float64, updates.ranks, list(closing))
        answers = self._ask("verify", arguments, updates.u, updates.w)
        reports: list[Report] = [answer.value for answer in answers]
        return reduce(_merge, reports)

    def keep(self, leaders: Leaders, taken: Sequence[int], closed: Sequence[int] = ()) -> None:
        state = leaders.state
        self._ask("keep", (list(taken), list(closed)), state.a, state.b, state.scores)

    def cut(
        self,
        leaders: Leaders,
        updates: Updates,
        taken: Sequence[int],
        *,
        float64: bool,
        closed: Sequence[int] = (),
    ) -> bool:
        arguments = (list(taken), float64, updates.ranks, list(closed))
        answers = self._ask("cut", arguments, updates.u, updates.w, leaders.state.scores)
        return any(answer.value for answer in answers)

    def _ask(self, name: str, arguments: tuple[Any, ...], *tensors: Tensor) -> list[Answer]:
        self._exchange.tell(name, arguments, *tensors)
        work = partial(getattr(self._shard, name), *arguments, *tensors)
        answers = self._exchange.collect(name, work)
        device = self._shard.places.device
        return [Answer(value, tuple(t.to(device) for t in found)) for value, found in answers]

    def _gathered(self, name: str, *tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Parts of all ranks' answers, and the order that puts them as they were asked for."""
        answers = self._ask(name, (), *tensors)
        positions, *parts = (
            torch.cat(found) for found in zip(*(answer.tensors for answer in answers), strict=True)
        )
        return positions.argsort(), parts

    def _factors(self, order: Tensor, parts: list[Tensor]) -> GradientFactors:
        middle, *head = (part[order] for part in parts)
        if not head:
            return GradientFactors(middle)
        return GradientFactors(middle, head[0], head[1], self._shard.local.head_index)


def serve(shard: Shard, exchange: Exchange) -> object:
    """On every rank but 0: do what rank 0 asks for; its result in the end.

    Raises:
        LostContact: a process has died, or does not answer.
        ValueError, RuntimeError: what went wrong on another rank.
    """
    while True:
        name, arguments, tensors = exchange.hear()
        if name == _DONE:
            return arguments[0]
        if name == _FAILED:
            kind, text = arguments
            raise kind(text)
        here = (tensor.to(shard.places.device) for tensor in tensors)
        exchange.answer(partial(getattr(shard, name), *arguments, *here))


def lead(exchange: Exchange, work: Callable[[], T]) -> T:
    """On rank 0: do the work that asks the other ranks, and tell them how it ended."""
    try:
        result = work()
    except LostContact:
        raise
    except BaseException as error:
        kind = type(error) if type(error) in (ValueError, TypeError) else RuntimeError
        exchange.tell(_FAILED, (kind, str(error) or f"rank 0 ended with {type(error).__name__}"))
        raise
    exchange.tell(_DONE, (result,))
    return result


def _merge(first: Report, second: Report) -> Report:
    """The report on two sets of candidates; of equal scores the lowest index is told."""
    tops = [
        max((score, -index) for score, index in pair)
        for pair in zip(
            zip(first.best, first.best_index, strict=True),
            zip(second.best, second.best_index, strict=True),
            strict=True,
        )
    ]
    lowest = [min(pair) for pair in zip(first.first_index, second.first_index, strict=True)]
    return Report([score for score, _ in tops], [-index for _, index in tops], lowest)


def _parts(factors: GradientFactors) -> tuple[Tensor, ...]:
    parts = (factors.middle, factors.coupling, factors.hidden)
    return tuple(part for part in parts if part is not None)
