"""The CUDA ops on CPU tensors, and the order in which their threads run."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from emulated_build import NAMESPACE


@dataclass(frozen=True)
class Schedule:
    """How blocks and threads follow one another, and the card that the host believes in."""

    order: str = "forward"  # forward, backward or random
    processors: int = 132
    cache_bytes: int = 50 * 2**20
    resident: int = 1  # blocks that take turns
    seed: int = 0


# One processor and little memory make many chunks of few candidates, and few blocks that
# each go round their loops many times.
SCHEDULES = {
    "forward": Schedule(),
    "backward": Schedule("backward", processors=2, resident=2),
    "random": Schedule("random", processors=5, resident=4, seed=1),
    "random, a small card": Schedule(
        "random", processors=1, cache_bytes=10_000, resident=3, seed=2
    ),
}
_ORDERS = ("forward", "backward", "random")


@cache
def load(path: Path) -> ctypes.CDLL:
    """Registers the ops of an emulated build; one build a process."""
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def op(name: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), name)


def _apply(library: ctypes.CDLL, schedule: Schedule) -> None:
    library.emulated_schedule(
        _ORDERS.index(schedule.order),
        schedule.processors,
        schedule.cache_bytes,
        schedule.resident,
        schedule.seed,
    )


@contextmanager
def scheduled(library: ctypes.CDLL, schedule: Schedule) -> Iterator[None]:
    """Ops run so, and find NaN in memory that nobody has written."""
    _apply(library, schedule)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        _apply(library, Schedule())


def counts(library: ctypes.CDLL) -> dict[str, int]:
    """Launches, thread blocks and barriers since the library was loaded."""
    found = (ctypes.c_int64 * 3)()
    library.emulated_counts(found)
    return dict(zip(("launches", "blocks", "barriers"), found, strict=True))
