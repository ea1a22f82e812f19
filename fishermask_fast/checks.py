"""Checks of what users hand in: every message names what was expected and what came."""

from __future__ import annotations

import inspect
import math
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Default(float):
    """A default that can be told from the same number given by somebody."""


LAMB = Default(1.0)  # the published one


def caller_level() -> int:
    """The stacklevel of a warning that is to point at the first caller outside this package."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back:
        name = frame.f_globals.get("__name__", "")
        # What lies between an import and the module imported; warnings count no frozen frames.
        frozen = name.startswith("importlib._bootstrap")
        if not frozen and name.partition(".")[0] not in (package, "importlib"):
            break
        level, frame = level + (not frozen), frame.f_back
    return level


def is_integer(value: object) -> bool:
    """Whether `value` is a whole number of Python's, numpy's or torch's, and no bool."""
    if isinstance(value, (bool, np.bool_)) or _is_no_number(value):
        return False
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return False
    return hasattr(value, "__index__") and not (isinstance(value, np.ndarray) and value.ndim > 0)


def check_integer(name: str, value: object, minimum: int) -> int:
    """`value` as an int of at least `minimum`.

    Raises:
        TypeError: not an integer.
        ValueError: below `minimum`.
    """
    try:
        if isinstance(value, bool) or _is_no_number(value):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {number}")
    return number


def check_positive(name: str, value: object) -> float:
    """`value` as a finite float above zero.

    Raises:
        TypeError: not a real number.
        ValueError: zero, negative, infinite or NaN.
    """
    try:
        if isinstance(value, (bool, str, np.bool_)) or _is_no_number(value):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number above 0; got {value!r}") from None
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0; got {number}")
    return number


def listed(values: Sequence[object], most: int) -> str:
    """The first few of some values, for a message."""
    more = ["..."] if len(values) > most else []
    return ", ".join([*map(str, values[:most]), *more])


def warn_ignored(given: Mapping[str, object], defaults: Mapping[str, object], why: str) -> None:
    """Warns of options that were given and have no effect.

    Args:
        given: the options that have none, by name.
        defaults: what each is where nobody gave it.
        why: what decides instead.
    """
    named = [name for name, value in given.items() if value != defaults[name]]
    if named:
        warnings.warn(f"ignored: {', '.join(named)}; {why}", UserWarning, stacklevel=caller_level())


def warn_ignored_of(owner: object, names: tuple[str, ...], why: str) -> None:
    """The same of attributes of an object, whose ``__init__`` says what each is unless given."""
    parameters = inspect.signature(type(owner)).parameters
    defaults = {name: parameters[name].default for name in names}
    warn_ignored({name: getattr(owner, name) for name in names}, defaults, why)


def check_flag(name: str, value: object) -> bool:
    """`value` as a bool.

    Raises:
        TypeError: anything else, such as a number or a text, which would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_path(name: str, value: object) -> Path:
    """`value` as the path of a file.

    Raises:
        TypeError: neither a text nor a path.
        ValueError: empty, or a folder.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} must be a path; got {value!r}")
    path = Path(value)
    if not path.name or path.is_dir():
        raise ValueError(f"{name} must be the path of a file; got {os.fspath(value)!r}")
    return path


def _is_no_number(value: object) -> bool:
    return isinstance(value, Tensor) and (value.dtype == torch.bool or value.ndim > 0)


def tensor_kind(tensor: Tensor) -> str:
    """What a tensor that holds no numbers of its own is, in words."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantized tensor"
    return "a meta tensor" if tensor.is_meta else f"layout {tensor.layout}"


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """`value` as one of some words.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return value


def check_matrix(name: str, matrix: object, k: int, device: torch.device) -> Tensor:
    """A symmetric (k, k) matrix beside gradients of k columns on `device`, in float64.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: of another size or device, not finite, or not symmetric.
    """
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} must be a Tensor of shape ({k}, {k}); got {type(matrix).__name__}")
    if matrix.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor of numbers; got {tensor_kind(matrix)}")
    if matrix.dtype not in FLOATING:
        raise TypeError(f"{name} must have a floating dtype; got {matrix.dtype}")
    if tuple(matrix.shape) != (k, k):
        raise ValueError(
            f"{name} must have shape ({k}, {k}), as gradients have {k} columns; "
            f"got {tuple(matrix.shape)}"
        )
    if matrix.device != device:
        raise ValueError(f"{name} is on {matrix.device}; expected the gradients' {device}")
    wide = matrix.detach().to(torch.float64)
    size = wide.abs().max() if k else wide.new_zeros(())
    if not bool(size.isfinite()):
        raise ValueError(f"{name} must be finite; it holds NaN or Inf")
    asymmetry = (wide - wide.T).abs().max() if k else size
    if bool(asymmetry > math.sqrt(torch.finfo(matrix.dtype).eps) * size):
        raise ValueError(
            f"{name} must be symmetric; entries differ from their mirror image by up to "
            f"{float(asymmetry):.3g}"
        )
    return ((wide + wide.T) / 2).contiguous()
