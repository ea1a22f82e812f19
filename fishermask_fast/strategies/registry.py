"""Every strategy by name: a new one is a function in its room, and a line here."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import nn

from fishermask_fast.network import head_candidates, unwrap
from fishermask_fast.options import MASKS, QueryOptions
from fishermask_fast.selector import unread_options
from fishermask_fast.strategies.diversity import badge, coreset
from fishermask_fast.strategies.filtered import fishermask_coverage
from fishermask_fast.strategies.fisher import (
    SELECTORS,
    bait,
    fishermask,
    fishermask_entropy,
)
from fishermask_fast.strategies.herding import uherding
from fishermask_fast.strategies.interface import Picks, Pool, Strategy, leave_out, sizes
from fishermask_fast.strategies.typical import typiclust
from fishermask_fast.strategies.uncertainty import (
    entropy,
    least_confidence,
    margin,
)


def random(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Uniform without replacement: what every strategy has to beat."""
    size = sum(sizes(pool, options))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return Picks(order[:n])


STRATEGIES: dict[str, Strategy] = {
    "fishermask": fishermask,
    "fishermask_entropy": fishermask_entropy,
    "fishermask_coverage": fishermask_coverage,
    "bait": bait,
    "random": random,
    "entropy": entropy,
    "margin": margin,
    "least_confidence": least_confidence,
    "coreset": coreset,
    "badge": badge,
    "uherding": uherding,
    "typiclust": typiclust,
}
"""Every strategy by name."""


_AIM = ("preset", "lamb", "prior_precision", "criterion", "rows", "eval_weights", "class_weight")
_FISHER = ("weighting", *_AIM, "rank", "batch_size", "head", "likelihood")
_MASKED = (*_FISHER, "mask", "fraction", "n_parameters", "keep_head", "fisher_samples")
_READ = {
    "fishermask": _MASKED,
    "fishermask_entropy": _MASKED,
    "fishermask_coverage": tuple(
        name for name in _MASKED if name not in ("preset", "lamb", "criterion", "class_weight")
    ),
    "bait": _FISHER,
    "random": ("likelihood",),
    "coreset": ("batch_size", "head", "likelihood"),
    "badge": ("batch_size", "head", "likelihood"),
    "uherding": ("batch_size", "head", "likelihood"),
    "typiclust": ("batch_size", "head", "likelihood"),
}
_BY_HEAD = ("coreset", "badge", "uherding", "typiclust", "fishermask_coverage")
_NO_GIVEN_OPTION = ("progress", "group", "samples")


def unread(name: str, options: QueryOptions) -> list[str]:
    """Options that were given (other than the default) and that a strategy does not read."""
    read = set(_READ.get(name, ("batch_size", "likelihood")))
    if "mask" in read:
        read -= set(unread_options(options.mask))
    return [
        field.name
        for field in fields(QueryOptions)
        if field.name not in read
        and field.name not in _NO_GIVEN_OPTION
        and getattr(options, field.name) != field.default
    ]


def pick(
    name: str,
    model: nn.Module,
    pool: Pool,
    labeled: Pool,
    n: int,
    seed: int,
    options: QueryOptions,
) -> Picks:
    """What a strategy picks, of samples that are neither pending nor excluded.

    Raises:
        TypeError, ValueError: as the strategy does.
    """
    strategy = STRATEGIES[name]
    if name in SELECTORS:
        return strategy(model, pool, labeled, n, seed, options)
    return leave_out(strategy, model, pool, labeled, n, seed, options)


def check_samples(name: str, options: QueryOptions) -> None:
    """Raise for what is asked of single samples and not defined for a strategy.

    Raises:
        ValueError: Names both.
    """
    asked = options.samples
    undefined = {
        "max_per_cluster": asked.max_per_cluster,
        "gain_weights (costs)": asked.gain_weights,
    }
    if name not in SELECTORS:
        undefined["eval_data"] = asked.eval_data
    wrong = [each for each, value in undefined.items() if value is not None]
    if wrong and name not in ("fishermask", "bait"):
        raise ValueError(
            f"{', '.join(wrong)}: not defined for strategy {name}; fishermask and bait take it"
        )


ANY_LIKELIHOOD = ("fishermask", "bait", "random")
"""Strategies that ask for no probabilities of classes."""


def check(name: str, model: nn.Module, n_classes: int, options: QueryOptions) -> None:
    """Raise ValueError or TypeError where a strategy cannot work for this model and options."""
    check_samples(name, options)
    if options.likelihood not in (None, "categorical") and name not in ANY_LIKELIHOOD:
        raise ValueError(
            f"strategy {name} is for one class a sample; with likelihood {options.likelihood} take "
            f"one of {', '.join(ANY_LIKELIHOOD)}"
        )
    if name in SELECTORS:
        if options.rank is not None and options.rank > n_classes:
            raise ValueError(f"rank must be at most the {n_classes} classes; got {options.rank}")
        if options.mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}; got {options.mask!r}")
        SELECTORS[name](model, 0, options).check_parameters()
    if name in _BY_HEAD and not head_candidates(unwrap(model)):
        raise ValueError("model must end in a head, such as nn.Linear; found none")
