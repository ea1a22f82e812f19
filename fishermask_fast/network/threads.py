"""What threads share: a model that one of them reads, and switches of the whole process.

Reading a model changes its flags until it is given back, so two threads cannot read one model at a
time: the second is refused. Different models can be read side by side; switches that torch has once
for all threads are set by the first reader and put back by the last.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

_lock = threading.Lock()
_readers: dict[int, tuple[int, int]] = {}  # id of a parameter -> (its thread, how often)
_before: list[tuple[bool, int]] = []  # the switches before each reader, the first one's first


@contextmanager
def read_by_this_thread(model: nn.Module) -> Iterator[None]:
    """Keeps other threads off the model's parameters, and torch's switches as readers want them.

    Raises:
        RuntimeError: another thread reads them.
    """
    parameters = list(model.parameters())
    own = threading.get_ident()
    with _lock:
        _refuse(parameters, own)
        for p in parameters:
            _readers[id(p)] = (own, _readers.get(id(p), (own, 0))[1] + 1)
        _set_switches()
    try:
        yield
    finally:
        with _lock:
            for p in parameters:
                _, times = _readers.pop(id(p))
                if times > 1:
                    _readers[id(p)] = (own, times - 1)
            _put_back_switches()


def check_not_read_elsewhere(model: nn.Module) -> None:
    """Raises where another thread reads the model, whose flags are not its own then.

    Raises:
        RuntimeError: see above.
    """
    with _lock:
        _refuse(list(model.parameters()), threading.get_ident())


def _refuse(parameters: list[nn.Parameter], own: int) -> None:
    if any(_readers.get(id(p), (own, 0))[0] != own for p in parameters):
        raise RuntimeError(
            "model is read by another thread; expected one at a time, as its modes and flags are "
            "changed meanwhile. Wait for the other call, or give each thread a copy "
            "(copy.deepcopy(model))"
        )


def _set_switches() -> None:
    _before.append((torch.backends.mha.get_fastpath_enabled(), parametrize._cache_enabled))
    # The fused attention of inference would pass the layers' own forwards by; inside
    # parametrize.cached() a weight would be one made before, apart from its parameter.
    torch.backends.mha.set_fastpath_enabled(False)
    parametrize._cache_enabled = 0


def _put_back_switches() -> None:
    attention, cached = _before.pop()
    if not _before:
        torch.backends.mha.set_fastpath_enabled(attention)
        parametrize._cache_enabled = cached
