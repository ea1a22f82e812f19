"""What a query asks of its candidates, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fishermask_fast.engine import Limits, Options, check_clusters, check_gains, check_samples
from fishermask_fast.selector.aims import Aim

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wishes:
    """Arguments of a query that select_batch reads; see there."""

    gain_weights: Any = None
    pending: Any = None
    exclude: Any = None
    cluster_ids: Any = None

    def check(self, aim: Aim, n_select: int, n: int, n_total: int | None = None) -> None:
        """Raise where select_batch would.

        Args:
            aim: options beside.
            n_select: K.
            n: samples of this process's pool.
            n_total: of all processes' pools, where there are others.

        Raises:
            TypeError, ValueError: as select_batch.
        """
        options = self._options(aim, n_select)
        gains = check_gains(self.gain_weights, n)
        clusters = check_clusters(self.cluster_ids, n)
        if n_total is None:
            options.check_room(n, options.rules(n, gains, clusters))
        elif aim.max_per_cluster is None:  # whose clusters select_batch brings together
            options.check_room(n_total, options.rules(n_total, None, None))

    def in_words(self) -> dict[str, str | None]:
        """Which of those were given that are each rank's own."""
        each = {"gain_weights": self.gain_weights, "cluster_ids": self.cluster_ids}
        return {name: "None" if value is None else "given" for name, value in each.items()}

    def with_pending(self, places: Array, n: int) -> Array:
        """Places of candidates among n samples, those of pending samples that are none behind."""
        waiting = self._index("pending", n)
        more = [place for place in waiting if place not in places]
        return np.concatenate([places, np.asarray(more, dtype=places.dtype)])

    def among(self, places: Array, n: int, labeled: Array) -> Wishes:
        """The same for some of n samples, by their order there.

        Args:
            places: (m,) of these samples.
            n: how many samples this asks of.
            labeled: places of those that have a label.

        Raises:
            TypeError, ValueError: as select_batch, or for pending samples that have a label or are
                not among these.
        """
        at = {int(place): position for position, place in enumerate(places)}
        pending = self._index("pending", n)
        for place in pending:
            if place in labeled:
                raise ValueError(f"pending must have no label yet; sample {place} has one")
            if place not in at:
                raise ValueError(f"pending must be unlabeled samples; {place} is not among them")
        gains, clusters = check_gains(self.gain_weights, n), check_clusters(self.cluster_ids, n)
        return Wishes(
            None if gains is None else gains[places],
            [at[place] for place in pending],
            [at[place] for place in self._index("exclude", n) if place in at],
            None if clusters is None else clusters[places],
        )

    def _index(self, name: str, n: int) -> list[int]:
        index = check_samples(name, getattr(self, name))
        if index is None or not len(index):
            return []
        if int(index.max()) >= n:
            raise ValueError(
                f"{name} must be indices within 0..{n - 1}, the samples'; got {int(index.max())}"
            )
        found: list[int] = index.tolist()
        return found

    def room(self, aim: Aim, n: int) -> int:
        """How many of n samples may be picked together.

        Raises:
            TypeError, ValueError: as select_batch.
        """
        return self._limits(aim, n).n_together

    def closed(self, aim: Aim, n: int, picks: Sequence[int]) -> Tensor:
        """(n,) bool, samples that may not be picked after some picks, those among them."""
        limits = self._limits(aim, n)
        barred = limits.barred if len(limits.barred) else torch.zeros(n, dtype=torch.bool)
        for cluster in limits.closing(picks):
            if cluster is not None and limits.clusters is not None:
                barred = barred | (limits.clusters == cluster)
        barred[list(picks)] = True
        return barred

    def _limits(self, aim: Aim, n: int) -> Limits:
        return Limits(n, self._options(aim, 1).rules(n, None, check_clusters(self.cluster_ids, n)))

    def _options(self, aim: Aim, n_select: int) -> Options:
        return Options.checked(
            n_select,
            aim.lamb,
            0,
            aim.backward_steps,
            None,
            None,
            "mixed",
            prior_precision=aim.prior_precision,
            criterion=aim.criterion,
            max_per_cluster=aim.max_per_cluster,
            pending=self.pending,
            exclude=self.exclude,
        )


# Options of a query; all others are the selector's.
_OF_A_QUERY = ("eval_data", "gain_weights", "pending", "exclude", "cluster_ids", "labels")


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of FisherMaskSelector, and those of its `query`, from both together."""
    of_query = {name: value for name, value in options.items() if name in _OF_A_QUERY}
    return {name: value for name, value in options.items() if name not in of_query}, of_query
