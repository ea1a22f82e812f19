"""Tensors that modules keep beside their parameters, as they stood at some moment.

A forward may leave g(theta) in an attribute or a buffer and take it from there the next time; what
a pass of ours leaves there is of no use to anyone after it, and is taken away again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_REGISTRIES = frozenset(nn.Module().__dict__)


class KeptTensors:
    """The tensors in the attributes, dicts, lists and buffers of a model's modules."""

    def __init__(self, model: nn.Module) -> None:
        self._saved = [(module, _attributes(module)) for module in model.modules()]
        self._buffers = [(module, dict(module._buffers)) for module in model.modules()]

    def restore(self) -> None:
        """Puts back what stood there; attributes without tensors stay as they are."""
        for module, saved in self._saved:
            now = module.__dict__
            for key in [*now, *saved]:
                if key not in _REGISTRIES:
                    _restore(now, key, saved)
        for module, buffers in self._buffers:
            if any(module._buffers.get(key) is not value for key, value in buffers.items()) or len(
                buffers
            ) != len(module._buffers):
                module._buffers.clear()
                module._buffers.update(buffers)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """(value, a copy of what it holds) of each attribute."""
    return {
        key: (value, _copied(value))
        for key, value in module.__dict__.items()
        if key not in _REGISTRIES
    }


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list) else None


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _restore(now: dict[str, Any], key: str, saved: dict[str, tuple[Any, Any]]) -> None:
    if key not in saved:
        if key in now and _holds_tensors(now[key]):
            del now[key]
        return
    value, held = saved[key]
    if held is not None and (_holds_tensors(value) or _holds_tensors(held)):
        value.clear()
        value.update(held) if isinstance(value, dict) else value.extend(held)
    if now.get(key) is not value and (_holds_tensors(now.get(key)) or _holds_tensors(value)):
        now[key] = value
