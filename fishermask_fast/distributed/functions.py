"""What a function or a module is made of, beside its name and its tensors, to be compared.

Two functions of one name may differ in their code, their constants, their defaults and the values
that they close over; two modules of one class in plain attributes, such as a slope. What these
hold that is neither plain nor a tensor nor a function is told by its type alone.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fishermask_fast.arrays import digest

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# A rank's own: on which device it is, and where its files lie.
_OWN = re.compile(r"(cpu|cuda|xpu|hpu|mps|npu)(:\d+)?|.*[/\\].*", re.DOTALL)
_SET_BY_MODES = ("training",)
_DEEPEST = 8


def contents(value: object, depth: int = 0) -> Any:
    """What a value is made of, as nested tuples of texts, the same on every rank for the same."""
    if depth > _DEEPEST:
        return type(value).__qualname__
    inner = depth + 1
    if isinstance(value, _PLAIN):
        return (type(value).__name__, repr(value))
    if isinstance(value, Tensor):
        return ("tensor", digest([("", value)]))
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *(contents(each, inner) for each in value))
    if isinstance(value, (set, frozenset)):
        return ("set", *sorted(repr(contents(each, inner)) for each in value))
    if isinstance(value, Mapping):
        return ("mapping", *((str(key), contents(each, inner)) for key, each in value.items()))
    if isinstance(value, types.CodeType):
        return _of_code(value, inner)
    if isinstance(value, types.FunctionType):
        return _of_function(value, inner)
    if isinstance(value, types.MethodType):
        return ("method", contents(value.__func__, inner), contents(value.__self__, inner))
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return ("partial", *(contents(each, inner) for each in parts))
    if isinstance(value, nn.Module):
        tensors = (*value.named_parameters(), *value.named_buffers())
        return ("module", digest(tensors), attributes(value))
    if isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        named = value if hasattr(value, "__name__") else type(value)
        return f"{getattr(named, '__module__', '')}.{named.__name__}"
    return (type(value).__qualname__, contents(vars(value), inner))


def attributes(model: nn.Module) -> tuple[Any, ...]:
    """By module: its name, its class, what it says of itself, and its plain attributes."""
    return tuple(
        (name, type(module).__qualname__, _said(module), _plain_of(module))
        for name, module in model.named_modules()
    )


def _said(module: nn.Module) -> str:
    try:
        return module.extra_repr()
    except Exception:  # a text for people, of anybody's code
        return ""


def _plain_of(module: nn.Module) -> tuple[tuple[str, str], ...]:
    found = sorted(vars(module).items())
    return tuple(
        (name, repr(value))
        for name, value in found
        if not name.startswith("_") and name not in _SET_BY_MODES and _is_plain(value)
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not _OWN.fullmatch(value)
    return isinstance(value, _PLAIN)


def _of_code(code: types.CodeType, depth: int) -> Any:
    constants = tuple(contents(each, depth) for each in code.co_consts)
    names = (code.co_names, code.co_freevars, code.co_argcount, code.co_kwonlyargcount)
    return ("code", code.co_code.hex(), names, constants)


def _of_function(function: types.FunctionType, depth: int) -> Any:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(contents(cell.cell_contents, depth))
        except ValueError:  # of a name that has no value yet
            cells.append("empty")
    known = function.__globals__
    globals_read = tuple(
        (name, contents(known[name], depth))
        for name in function.__code__.co_names
        if name in known and known[name] is not function
    )
    defaults = contents((function.__defaults__, function.__kwdefaults__), depth)
    return (
        function.__qualname__,
        _of_code(function.__code__, depth),
        defaults,
        cells,
        globals_read,
    )
