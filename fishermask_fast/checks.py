"""Checks of what users hand in: every message names what was expected and what came."""

from __future__ import annotations

import inspect
import math
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


_LONGEST = 200  # characters of a value in a message


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


def as_integer(value: object) -> int | None:
    """A whole number of Python's, numpy's or torch's that is no bool; None for anything else."""
    if _is_no_number(value):
        return None
    # What says that it is an integer may be none, and fail in any way.
    with suppress(Exception):
        return operator.index(value)  # type: ignore[arg-type]
    return None


def is_integer(value: object) -> bool:
    """Whether `value` is a whole number of Python's, numpy's or torch's, and no bool."""
    return as_integer(value) is not None


def as_real(value: object) -> float | None:
    """A real number of Python's, numpy's or torch's that is no bool; None for anything else.

    Integers that are too large for float64 are infinite.
    """
    if _is_no_number(value) or isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except Exception:
        return None


def shown(value: object) -> str:
    """A value in a message, shortened; an integer of thousands of digits cannot even be printed."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def check_integer(name: str, value: object, minimum: int) -> int:
    """`value` as an int of at least `minimum`.

    Raises:
        TypeError: not an integer.
        ValueError: below `minimum`, or of more than 63 bits.
    """
    number = as_integer(value)
    if number is None:
        raise TypeError(f"{name} must be an integer; got {shown(value)}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {shown(number)}")
    if number >= 2**63:
        raise ValueError(f"{name} must be below 2**63; got {shown(number)}")
    return number


def check_positive(name: str, value: object) -> float:
    """`value` as a finite float above zero.

    Raises:
        TypeError: not a real number.
        ValueError: zero, negative, infinite or NaN.
    """
    number = as_real(value)
    if number is None:
        raise TypeError(f"{name} must be a number above 0; got {shown(value)}")
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0; got {shown(value)}")
    return number


def as_device(value: object) -> torch.device:
    """A device by its name, which need not be there.

    Raises:
        TypeError, ValueError: none.
    """
    expected = f"device must be a torch.device or its name; got {shown(value)}"
    if not isinstance(value, (str, torch.device)) and not is_integer(value):
        raise TypeError(expected)
    try:
        found: torch.device = torch.device(value)  # type: ignore[call-overload]
    except Exception as error:  # torch knows kinds of devices whose modules are not there
        raise ValueError(expected) from error
    if found.type == "cpu" and found.index:
        raise ValueError(f"device must be one of this machine's, which has one CPU; got {value!r}")
    return found


def check_device(value: object) -> torch.device:
    """A device that can compute here.

    Raises:
        TypeError: no device.
        ValueError: no such device, or one that holds no numbers ("meta").
    """
    found = as_device(value)
    try:
        torch.empty(1, device=found)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one of this machine's; got {shown(value)}: {reason}"
        ) from None
    if found.type == "meta":
        raise ValueError('device must hold numbers, which "meta" does not')
    return found


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
    """Whether `value` is known to be no real number, whatever it says that it can become."""
    if isinstance(value, Tensor):
        numeric = value.dtype != torch.bool and not value.is_complex() and not value.is_meta
        return not numeric or value.ndim > 0
    if isinstance(value, np.ndarray):
        return value.ndim > 0 or value.dtype.kind not in "iuf"
    return isinstance(value, (bool, np.bool_, type))


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
