"""Whether what a run's folder says was asked for could have been: types, ranges and keys."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fishermask_fast.options.data import DataOptions
from fishermask_fast.options.picking import QueryOptions
from fishermask_fast.options.schedule import Schedule
from fishermask_fast.options.training import Recipe

_PARTS: dict[str, type] = {
    "data": DataOptions,
    "schedule": Schedule,
    "recipe": Recipe,
    "query": QueryOptions,
}
_PLAIN: dict[str, Any] = {
    "name": str,
    "model": str,
    "device": str,
    "metric": Literal["accuracy", "balanced accuracy", "macro F1", "R²"],
    "classes": tuple[str, ...],
    "n_pool": int,
    "n_test": int,
    "threads": int,
    "pool_counts": tuple[int, ...],
}
_PASSING = ("progress", "group", "samples")  # of one query alone
_VARIANT: dict[str, Any] = {"strategy": str, "options": dict}
_MOST = 2**63


def check_config(config: Any) -> None:
    """Raise where a part of a recorded configuration is not of its type, or out of its range.

    Parts may be missing, as those of earlier versions' records are.

    Args:
        config: As ``config.json`` holds it.

    Raises:
        TypeError, ValueError: Names the part.
    """
    _check_object("config", config)
    for name, hint in _PLAIN.items():
        if name in config:
            _check_fits(name, config[name], hint)
    for name in ("n_pool", "n_test", "threads"):
        if not 0 < config.get(name, 1) < _MOST:
            raise ValueError(f"{name} must be from 1 to 2**63 - 1; got {config[name]}")
    if not config.get("classes", ["one"]):
        raise ValueError("classes must name at least one; got none")
    if not all(0 <= count < _MOST for count in config.get("pool_counts", ())):
        raise ValueError(f"pool_counts must be from 0 to 2**63 - 1; got {config['pool_counts']}")
    for name, kind in _PARTS.items():
        if name in config:
            _check_part(name, config[name], kind)
    _check_variants(config.get("variants", {}))


def _check_part(name: str, values: Any, kind: type) -> None:
    _check_object(name, values)
    hints = {key: hint for key, hint in get_type_hints(kind).items() if key not in _PASSING}
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{name}.{key} is no option; known are {', '.join(hints)}")
        _check_fits(f"{name}.{key}", value, hints[key])
    as_given = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    try:
        kind(**as_given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_variants(variants: Any) -> None:
    _check_object("variants", variants)
    for name, variant in variants.items():
        _check_object(f"variants.{name}", variant)
        if "strategy" not in variant or set(variant) - set(_VARIANT):
            raise ValueError(f"variants.{name} must hold strategy and options; got {list(variant)}")
        for key, value in variant.items():
            _check_fits(f"variants.{name}.{key}", value, _VARIANT[key])
        _check_part(f"variants.{name}.options", variant.get("options", {}), QueryOptions)


def _check_object(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object; got {value!r}")


def _check_fits(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise TypeError(f"{name} must be {_words(hint)}; got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a JSON text is of a type."""
    inner = get_args(hint)
    if hint is Any or hint is type(None):
        return hint is Any or value is None
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if get_origin(hint) is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(each, inner[0]) for each in value)
    if hint is float:
        whole = type(value) is int and abs(value) < _MOST
        return whole or (type(value) is float and math.isfinite(value))
    if hint is int:
        return type(value) is int and abs(value) < _MOST
    return type(value) is hint


def _words(hint: Any) -> str:
    plain = isinstance(hint, type) and get_origin(hint) is None
    return hint.__name__ if plain else str(hint).replace("typing.", "")
