"""How long work shows how far it is: a bar on a terminal, and a line a minute where there is none.

Batch systems and pipes keep what is written on stderr, and a bar that draws over itself is of no
use there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
EVERY = 60.0
"""Seconds between two lines."""

Advance = Callable[[int], object]


@contextmanager
def progress_bar(
    total: int, name: str, unit: str, wanted: bool = True, done: int = 0
) -> Iterator[Advance]:
    """Hears how many more of ``total`` are done, and shows it.

    Args:
        total: Of the work.
        name: Of the work.
        unit: What is counted, in the plural.
        wanted: Show nothing where this is false.
        done: How many were done before.

    Raises:
        ImportError: There is no tqdm.
    """
    if not wanted:
        yield lambda n: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield _Lines(total, name, unit, done)
        return
    with tqdm(total=total, initial=done, unit=f" {unit}", desc=name, leave=False) as bar:
        yield bar.update


def watched(items: Iterable[T], total: int, name: str, unit: str, wanted: bool) -> Iterator[T]:
    """The items, one by one, with their progress shown."""
    with progress_bar(total, name, unit, wanted) as advance:
        for item in items:
            yield item
            advance(1)


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class _Lines:
    def __init__(self, total: int, name: str, unit: str, done: int) -> None:
        self.total, self.name, self.unit = total, name, unit
        self.before = self.done = done
        self.start = self.said = time.monotonic()

    def __call__(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said < EVERY:
            return
        self.said = now
        spent = now - self.start
        left = spent * (self.total - self.done) / max(self.done - self.before, 1)
        print(
            f"{self.name}: {self.done:,} of {self.total:,} {self.unit} after {duration(spent)}, "
            f"about {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )
