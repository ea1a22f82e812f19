"""What a strategy's query will take, told before it starts."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Subset

from fishermask_fast.estimates import Estimate
from fishermask_fast.options import QueryOptions
from fishermask_fast.progress import duration
from fishermask_fast.strategies.fisher import SELECTORS
from fishermask_fast.strategies.interface import Pool
from fishermask_fast.strategies.uncertainty import predict

LONG = 600.0
"""Seconds from which on the options that make a query shorter are told."""
_FEWER = 128
_TIMED = 16
_WORTH = 64  # samples: a query of fewer is over before it could be estimated

_READ_LABELED = ("coreset", "uherding", "typiclust")  # their heads' inputs


@dataclass(frozen=True)
class Forecast:
    """What a query will take.

    Attributes:
        seconds: By step.
        need: Of memory; None of strategies that hold little beside the model.
    """

    seconds: dict[str, float]
    need: Estimate | None = None


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
) -> Forecast | None:
    """What a strategy's query will take, by one batch that is timed.

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
        The forecast; None of strategies that read no sample, and of few samples.
    """
    n_pool, n_labeled = len(pool), len(labeled)  # type: ignore[arg-type]
    if name == "random" or (n_pool + n_labeled < _WORTH and not always):
        return None
    if name in SELECTORS:
        need = SELECTORS[name](model, seed, options).estimate(pool, n, labeled)
        return Forecast(need.seconds, need)
    some = Subset(pool, range(min(n_pool, _TIMED)))
    hidden = name == "badge" or name in _READ_LABELED
    reading: dict[str, Any] = {
        "hidden": hidden,
        "head": options.head,
        "batch_size": options.batch_size,
    }
    predict(model, some, **reading)  # what is made at the first call is not timed
    start = time.perf_counter()
    predict(model, some, **reading)
    n_read = n_pool + n_labeled * (name in _READ_LABELED)
    return Forecast({"predictions": (time.perf_counter() - start) * n_read / len(some)})


def announce(
    forecast: Forecast | None,
    options: QueryOptions,
    what: str = "",
    least: float = 0.0,
    *,
    resized: bool = False,
) -> None:
    """Say on stderr what a query will take; where that is long, what makes it shorter.

    Args:
        forecast: Of the query; None where there is none.
        options: Of the query.
        what: Whose time it is.
        least: Seconds of a query that is worth a word.
        resized: Whether ``--image-size`` decides how large samples are.
    """
    if forecast is None or sum(forecast.seconds.values()) < least:
        return
    total = sum(forecast.seconds.values())
    steps = ", ".join(f"{step} {duration(s)}" for step, s in forecast.seconds.items())
    said = f"{what}: " if what else ""
    then = "" if forecast.need is None else ", then the selection"
    print(f"{said}about {duration(total)} ({steps}){then}", file=sys.stderr)
    if total < LONG:
        return
    ways = []
    mask = forecast.seconds.get("mask", 0.0)
    if mask and options.fisher_samples > _FEWER:
        spared = mask * (1 - _FEWER / options.fisher_samples)
        ways.append(f"--fisher-samples {_FEWER}: about {duration(total - spared)}")
    if mask and options.mask != "head":
        ways.append("--mask head or --strategy bait: the last layer alone, no mask to find")
    need = forecast.need
    if need is not None and options.rank is None and need.n_rows > 1:
        ways.append(f"--rank 1 instead of {need.n_rows}: fewer backward passes, an approximation")
    smaller = "--image-size smaller, or " if resized else ""
    ways.append(f"{smaller}--device cuda where there is one")
    print("shorter:  " + "\n          ".join(ways), file=sys.stderr, flush=True)
