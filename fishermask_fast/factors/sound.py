"""Whether the samples of a file are those that were written.

A block of samples is compared with its checksum when it is first read. After that the file's size
and time stamps tell whether somebody may have written to it: the time of the last change of a file
goes forward even where that of its content was set back.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable

from fishermask_fast.factors.bytes_at import read_bytes, read_into, write_from
from fishermask_fast.factors.checksums import sums_text, unwritten
from fishermask_fast.factors.tensor_file import SUMS, Layout

# A file that was changed a moment ago may be changed again at the same time stamp.
_SETTLED_NS = 10**9


def block_sum(descriptor: int, layout: Layout, block: int) -> int:
    """The checksum of a block, from the file.

    Raises:
        EOFError: the file has become shorter.
    """
    start = block * layout.block
    n = min(layout.block, layout.n - start)
    found = 0
    for part in layout.rows().values():
        memory = bytearray(n * part.row_bytes)
        read_into(descriptor, memoryview(memory), part.offset + start * part.row_bytes)
        found = zlib.crc32(memory, found)
    return found


class Written:
    """The checksums of a file that is being written.

    Args:
        descriptor: of the file, whose header is written.
        layout: of the file.
    """

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor, self._layout = descriptor, layout
        self._sums: dict[int, int] = {}

    def add(self, start: int, stop: int) -> None:
        """Take note of samples that have been written in order, while the system has them."""
        size = self._layout.block
        last = self._layout.n_blocks if stop == self._layout.n else stop // size
        for block in range(start // size, last):
            self._sums[block] = block_sum(self._descriptor, self._layout, block)

    def seal(self) -> None:
        """Write the checksums into the header; those of samples not noted come from the file."""
        if not self._layout.block:
            return
        blocks = range(self._layout.n_blocks)
        for block in blocks:
            if block not in self._sums:
                self._sums[block] = block_sum(self._descriptor, self._layout, block)
        text = sums_text([self._sums[block] for block in blocks]).encode()
        begin = min(part.offset for part in self._layout.parts.values())
        name = f'"{SUMS}": "'.encode()
        at = read_bytes(self._descriptor, begin, 0).index(name) + len(name)
        assert len(text) == len(unwritten(len(blocks)))
        write_from(self._descriptor, memoryview(text), at)


class Sound:
    """Which samples of an open file have been found to be those that were written.

    Args:
        descriptor: of the file.
        name: of the file, for errors.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._content, self._touched = _stamps(descriptor)
        self._blocks: set[int] = set()

    def check(self, layout: Layout, samples: Iterable[int]) -> None:
        """Raise unless samples that were just read, at these places, are as they were written.

        What was read may otherwise be a mixture that never stood there. The file may be renamed,
        linked or removed meanwhile, or get other permissions: checksums tell this from writing.

        Raises:
            ValueError: somebody wrote to the file, or its samples have other checksums.
        """
        content, touched = _stamps(self._descriptor)
        if content != self._content or (touched != self._touched and layout.sums is None):
            raise ValueError(f"{self._name} was changed while in use; expected a file that stays")
        if layout.sums is None:
            return
        if touched != self._touched:
            self._touched, self._blocks = touched, set()
        # What another thread begins anew meanwhile must not be told of these.
        sound = self._blocks
        settled = time.time_ns() - touched > _SETTLED_NS
        for block in sorted({sample // layout.block for sample in samples} - sound):
            if block_sum(self._descriptor, layout, block) != layout.sums[block]:
                start, stop = block * layout.block, min((block + 1) * layout.block, layout.n)
                raise ValueError(
                    f"{self._name} is damaged or was changed: samples {start} to {stop - 1} do not "
                    "have the checksum that they were written with"
                )
            if settled:
                sound.add(block)


def _stamps(descriptor: int) -> tuple[tuple[int, int], int]:
    """Size and time of a file's content, and the time of its last change."""
    status = os.fstat(descriptor)
    return (status.st_size, status.st_mtime_ns), status.st_ctime_ns
