"""What a query asks of its candidates, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fishermask_fast.distributed import Part
from fishermask_fast.engine import Options, check_clusters, check_gains
from fishermask_fast.selector.parameters import Parameters


@dataclass(frozen=True)
class Wishes:
    """Arguments of a query that select_batch reads; see there."""

    gain_weights: Any
    pending: Any
    exclude: Any
    cluster_ids: Any

    def check(self, own: Parameters, n_select: int, pool: Part, *, alone: bool) -> None:
        """Raise where select_batch would.

        Raises:
            TypeError, ValueError: as select_batch.
        """
        options = Options.checked(
            n_select,
            own.lamb,
            0,
            own.backward_steps,
            None,
            None,
            "mixed",
            prior_precision=own.prior_precision,
            criterion=own.criterion,
            max_per_cluster=own.max_per_cluster,
            pending=self.pending,
            exclude=self.exclude,
        )
        n = len(pool)
        gains = check_gains(self.gain_weights, n)
        clusters = check_clusters(self.cluster_ids, n)
        if alone:  # what several ranks ask for together select_batch knows
            options.check_room(n, options.rules(n, gains, clusters))
