"""Which candidates may be picked, and what the gain of each counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rules:
    """What a selection asks of its candidates beside their gradients; places are in the whole pool.

    Attributes:
        gains: (n,) float64, the factor on the gain of each candidate of this process.
        clusters: (N,) int64, of all candidates.
        most: picks of a cluster, the pending ones counted.
        pending: samples in M from the start, which are not picked.
        exclude: samples that are not picked either.
    """

    gains: Tensor | None = None
    clusters: Tensor | None = None
    most: int = 1
    pending: Sequence[int] = ()
    exclude: Sequence[int] = ()

    @property
    def plain(self) -> bool:
        """Whether the pass over all candidates compares scores as they are."""
        return self.gains is None and self.clusters is None


class Limits:
    """Who of N candidates may still be picked: nobody twice, and `most` of a cluster.

    Args:
        n: candidates.
        rules: who may be picked at first.

    Attributes:
        n_free: candidates that may be picked next.
        clusters: (N,) int64, None where it is of no account.
    """

    def __init__(self, n: int, rules: Rules | None = None) -> None:
        rules = rules or Rules()
        self.clusters = rules.clusters
        self._most = rules.most
        barred = {*rules.pending, *rules.exclude}
        self.n_free = n - len(barred)
        if self.clusters is None:
            self.barred = torch.zeros(n if barred else 0, dtype=torch.bool)
            self.barred[list(barred)] = True
            return
        self._held = Counter(self.clusters[list(rules.pending)].tolist())
        full = [cluster for cluster, count in self._held.items() if count >= self._most]
        self.barred = torch.isin(self.clusters, self.clusters.new_tensor(full))
        self.barred[list(barred)] = True
        self._sizes = Counter(self.clusters[~self.barred].tolist())
        self.n_free = sum(self._sizes.values())

    @property
    def n_together(self) -> int:
        """How many can be picked together."""
        if self.clusters is None:
            return self.n_free
        rooms = ((size, self._most - self._held[one]) for one, size in self._sizes.items())
        return sum(min(size, room) for size, room in rooms)

    def closing(self, picks: Sequence[int]) -> list[int | None]:
        """The cluster that each of some next picks fills, None where it fills none."""
        if self.clusters is None:
            return [None] * len(picks)
        held, closed = Counter[int](), []
        for cluster in self.clusters[list(picks)].tolist():
            held[cluster] += 1
            full = self._held[cluster] + held[cluster] == self._most
            closed.append(cluster if full else None)
        return closed

    def take(self, picks: Sequence[int]) -> None:
        """Count picks that stand."""
        self.n_free -= len(picks)
        if self.clusters is None:
            return
        closed = self.closing(picks)
        for cluster in self.clusters[list(picks)].tolist():
            self._held[cluster] += 1
            self._sizes[cluster] -= 1
        for cluster in closed:
            if cluster is not None:
                self.n_free -= self._sizes.pop(cluster)
