"""What a query asks of its candidates, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
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


# Options of a query; all others are the selector's.
_OF_A_QUERY = ("eval_data", "gain_weights", "pending", "exclude", "cluster_ids", "labels")


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of FisherMaskSelector, and those of its `query`, from both together."""
    of_query = {name: value for name, value in options.items() if name in _OF_A_QUERY}
    return {name: value for name, value in options.items() if name not in of_query}, of_query
