"""Candidates of which many are one sample: the first of equal ones stands for all of them.

Equal samples have equal A, B and scores, and of equal scores the lowest index wins. Until it is
picked, the others need no updates; then the next of them takes its place, and its state.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.leading import has_copies
from fishermask_fast.engine.state import Leaders, Updates
from fishermask_fast.factors import GradientFactors, next_of_equal

# Fewer that may have copies, one part in so many, cost more to compare than they would save.
_SHARE = 8


class DistinctCandidates(LocalCandidates):
    """Candidates in this process's memory, of which equal ones are taken together.

    See LocalCandidates.
    """

    _heirs: Tensor | None = None  # as in Leaders; None where nobody looked or few may be equal

    def _survey(self) -> None:
        if self._heirs is None:
            _, kind, counts = self.kinds[:, 2].unique(return_inverse=True, return_counts=True)
            places = ((counts[kind] > 1) & self._free).nonzero().squeeze(1)
            if len(places) > len(self) // _SHARE or has_copies(self.kinds[places, 2:]):
                self._heirs = self._find_heirs(places)
                waiting = self._heirs[self._heirs < len(self)]
                self._free.index_fill_(0, waiting, False)
        super()._survey()

    def _find_heirs(self, places: Tensor) -> Tensor:
        """The next equal sample of each, among some of them."""
        assert isinstance(self._factors, GradientFactors)
        beside = [self._state.traces.new_zeros(len(self))]
        if self._state.gains is not None:
            beside.append(self._state.gains)
        if self._clusters is not None:
            beside.append(self._clusters.unique(return_inverse=True)[1].double())
        heirs = torch.full_like(self.kinds[:, 0], len(self))
        heirs[places] = next_of_equal(self._factors, places, torch.stack(beside, 1))
        return heirs

    def begin(self, size: int, forced: Collection[int]) -> Leaders:
        """Begin a block; see LocalCandidates."""
        if self._heirs is None:
            return super().begin(size, forced)
        leaders = super().begin(min(size, int(self._free.sum())), forced)
        return replace(leaders, index=leaders.index.clone(), heirs=self._heirs)

    def keep(self, leaders: Leaders, taken: Sequence[int], closed: Sequence[int] = ()) -> None:
        """End a block whose picks all stand; see LocalCandidates."""
        self._call_heirs(taken)
        super().keep(leaders, taken, closed)

    def cut(
        self,
        leaders: Leaders,
        updates: Updates,
        taken: Sequence[int],
        *,
        float64: bool,
        closed: Sequence[int] = (),
    ) -> bool:
        """End a block of which only the first picks stand; see LocalCandidates."""
        if self._heirs is not None:
            # Who came in for a pick that does not stand goes out again.
            index = self._leaders.clone()
            for pick in taken:
                heir = int(self._heirs[pick])
                index[index == pick] = heir if heir < len(self) else pick
            for saved in self._saved:
                saved.index_copy_(0, index, saved[self._leaders])
            # Such a pick has its score of before; that in its place is of after it.
            before, after = self._state.scores[self._leaders], leaders.state.scores
            scores = torch.where(leaders.index == index, after, before)
            leaders = replace(leaders, index=index, state=replace(leaders.state, scores=scores))
            self._call_heirs(taken)
        return super().cut(leaders, updates, taken, float64=float64, closed=closed)

    def _call_heirs(self, taken: Sequence[int]) -> None:
        """Those that come in for some picks may be picked from now on."""
        if self._heirs is not None:
            heirs = self._heirs[list(taken)]
            self._free.index_fill_(0, heirs[heirs < len(self)], True)
