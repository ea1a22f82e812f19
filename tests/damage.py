"""Ways in which what was written may come back: bytes and lines changed, lost, doubled, cut off."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged_bytes(content: bytes, count: int, stop: int | None = None) -> Iterator[bytes]:
    """Copies of `content` with one fault each, before byte `stop`; `count` of each kind."""
    rng = random.Random(0)
    n = len(content) if stop is None else stop
    for _ in range(count):
        at = rng.randrange(n)
        yield content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        at = rng.randrange(n)
        yield content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        at, size = rng.randrange(n), rng.randrange(1, 9)
        yield content[:at] + content[at + size :]
        at, size = rng.randrange(n), rng.randrange(1, 9)
        yield content[:at] + content[at : at + size] + content[at:]
        yield content[: rng.randrange(n)]
        yield content + bytes(rng.randrange(1, 9))


def damaged_lines(content: bytes, count: int) -> Iterator[bytes]:
    """Copies of `content` with a line lost, doubled, or two exchanged; `count` of each kind."""
    rng = random.Random(0)
    lines = content.splitlines(keepends=True)
    for _ in range(count):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        yield b"".join(lines[:at] + lines[at + 1 :])
        yield b"".join(lines[:at] + lines[at : at + 1] + lines[at:])
        swapped = list(lines)
        swapped[at], swapped[other] = lines[other], lines[at]
        yield b"".join(swapped)
