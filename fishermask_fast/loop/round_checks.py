"""What each part of a recorded round must be: its type, its range, and the keys of what has any."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

_MOST = 2**63  # what a whole number of a record is below
_TRAINING = {"epochs", "steps", "accuracy", "loss"}
_STEPS = ("train", "evaluate", "query")
_UNBOUNDED = "R²"
"""The metric that may be below zero."""


def check_parts(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise unless all parts of a round, but its strategy, are of their types and ranges.

    Args:
        content: Parts by name.
        config: What the run was asked for; empty where that is not known.

    Raises:
        KeyError, TypeError, ValueError: One is not, or is missing.
    """
    for name in ("seed", "round", "n_labeled"):
        _check_counts(name, [content[name]])
    for name in ("picks", "label_counts"):
        _check_counts(name, content[name])
    if not content["picks"]:
        raise ValueError("picks must be at least one; got none")
    _check_classes(content, config)
    _check_training(content["training"])
    _check_seconds(content["seconds"], content["round"])
    _check_query(content["query"])


def _check_classes(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    shares, counts = content["class_accuracy"], content["label_counts"]
    classes = config.get("classes")
    if not isinstance(shares, list):
        raise TypeError("class_accuracy must be a list")
    least = -math.inf if config.get("metric") == _UNBOUNDED else 0
    known = [content["accuracy"], *(share for share in shares if share is not None)]
    if not all(is_number(share) and least <= share <= 1 for share in known):
        raise ValueError(f"accuracies must be numbers from {least} to 1")
    n = len(shares) if classes is None else len(classes)
    if not n or not len(shares) == len(counts) == n:
        raise ValueError(
            f"class_accuracy and label_counts must be of the {n or 1} classes; got {len(shares)} "
            f"and {len(counts)}"
        )
    if max(counts) > len(content["picks"]):
        raise ValueError(f"label_counts must be at most the {len(content['picks'])} picks")


def _check_training(training: Any) -> None:
    _check_object("training", training)
    # A head that is solved for has no epochs.
    if "loss" not in training or set(training) - _TRAINING:
        raise ValueError(
            f"training must hold loss, and of {', '.join(sorted(_TRAINING))} no others; got "
            f"{list(training)}"
        )
    _check_counts("training", [training.get("epochs", 0), training.get("steps", 0)])
    share = training.get("accuracy", 0.0)
    # What has diverged is recorded as it is.
    if not is_number(training["loss"]) or not is_number(share):
        raise TypeError("training must hold numbers")
    if share > 1:
        raise ValueError(f"accuracy of training must be at most 1; got {share}")


def _check_seconds(seconds: Any, number: int) -> None:
    _check_object("seconds", seconds)
    for name, value in seconds.items():
        if name not in _STEPS and not name.startswith("query/"):
            raise ValueError(f"seconds must be of {', '.join(_STEPS)} or query/...; got {name!r}")
        if not is_number(value):
            raise TypeError("seconds must be numbers")
        if not 0 <= value < math.inf:
            raise ValueError(f"seconds must be 0 or more, and finite; got {value}")
    if number and "query" not in seconds:
        raise ValueError(f"seconds of round {number} must hold those of its query")


def _check_query(query: Any) -> None:
    _check_object("query", query)
    for name, value in query.items():
        if name not in _QUERY:
            raise ValueError(f"query may hold {', '.join(_QUERY)}; got {name!r}")
        _QUERY[name](name, value)


def _check_mask(name: str, mask: Any) -> None:
    _check_object(name, mask)
    for tensor, sizes in mask.items():
        _check_counts(f"{name} of {tensor}", sizes)
        if len(sizes) != 2 or not sizes[0] <= sizes[1]:
            raise ValueError(f"{name} of {tensor} must be entries masked and in all; got {sizes}")


def _check_share(name: str, value: Any) -> None:
    if not is_number(value) or math.isnan(value):
        raise TypeError(f"{name} must be a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1; got {value}")


def _check_numbers(name: str, values: Any) -> None:
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise TypeError(f"{name} must be a list of numbers")


_QUERY: dict[str, Callable[[str, Any], None]] = {
    "mask": _check_mask,
    "mask_overlap": _check_share,
    "scores": _check_numbers,
    "objective": _check_numbers,
}


def _check_object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be an object")


def _check_counts(name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise TypeError(f"{name} must be a list")
    if any(type(value) is not int or not 0 <= value < _MOST for value in values):
        raise ValueError(f"{name} must be whole numbers from 0 to 2**63 - 1")


def is_number(value: object) -> bool:
    """Whether a part of a record is a number that float64 can hold, NaN and infinities too."""
    return type(value) is float or (type(value) is int and abs(value) < _MOST)
