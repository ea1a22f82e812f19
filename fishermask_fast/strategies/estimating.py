"""What a strategy's query will take, told before it starts."""

from __future__ import annotations

import sys

from torch import nn

from fishermask_fast.estimates import Estimate
from fishermask_fast.options import QueryOptions
from fishermask_fast.progress import duration
from fishermask_fast.strategies.fisher import SELECTORS
from fishermask_fast.strategies.interface import Pool

LONG = 600.0
"""Seconds from which on the options that make a query shorter are told."""
_FEWER = 128
_WORTH = 64  # samples: a query of fewer is over before it could be estimated


def estimated(
    name: str,
    model: nn.Module,
    pool: Pool,
    labeled: Pool,
    n: int,
    seed: int,
    options: QueryOptions,
    *,
    always: bool = False,
) -> Estimate | None:
    """What ``FisherMaskSelector.estimate`` says of a strategy's query, with one batch timed.

    Args:
        name: Of the strategy.
        model: As for the strategy.
        pool: As for the strategy.
        labeled: As for the strategy.
        n: As for the strategy.
        seed: As for the strategy.
        options: As for the strategy.
        always: Also of so few samples that the query takes no longer.

    Returns:
        The estimate; None of strategies that take one forward pass a sample, and of few samples.
    """
    n_samples = len(pool) + len(labeled)  # type: ignore[arg-type]
    if name not in SELECTORS or (n_samples < _WORTH and not always):
        return None
    selector = SELECTORS[name](model, seed, options)
    return selector.estimate(pool, n, labeled)


def announce(
    need: Estimate | None, options: QueryOptions, what: str = "", least: float = 0.0
) -> None:
    """Say on stderr what a query will take; where that is long, what makes it shorter.

    Args:
        need: The estimate; None where there is none.
        options: Of the query.
        what: Whose time it is.
        least: Seconds of a query that is worth a word.
    """
    if need is None or sum(need.seconds.values()) < least:
        return
    total = sum(need.seconds.values())
    steps = ", ".join(f"{step} {duration(s)}" for step, s in need.seconds.items())
    said = f"{what}: " if what else ""
    print(f"{said}about {duration(total)} ({steps}), then the selection", file=sys.stderr)
    if total < LONG:
        return
    ways = []
    mask = need.seconds.get("mask", 0.0)
    if mask and options.fisher_samples > _FEWER:
        spared = mask * (1 - _FEWER / options.fisher_samples)
        ways.append(f"--fisher-samples {_FEWER}: about {duration(total - spared)}")
    if mask and options.mask != "head":
        ways.append("--mask head or --strategy bait: the last layer alone, no mask to find")
    if options.rank is None and need.n_rows > 1:
        ways.append(f"--rank 1 instead of {need.n_rows}: fewer backward passes, an approximation")
    ways.append("--image-size smaller, or --device cuda where there is one")
    print("shorter:  " + "\n          ".join(ways), file=sys.stderr, flush=True)
