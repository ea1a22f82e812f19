"""Bytes of a file at a place, read and written from several threads at a time."""

from __future__ import annotations

import os
import threading

import torch
from torch import Tensor

# Windows does without reading at a place: a lock then keeps seek and read, or write, together.
_HAS_POSITIONS = hasattr(os, "preadv")
_seeking = threading.Lock()
_MOST_AT_ONCE = 2**26  # where read makes a copy


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_bytes(descriptor: int, n: int, offset: int) -> bytes:
    """At most n bytes from `offset` on, fewer where the file ends."""
    memory = bytearray(n)
    count = _read_once(descriptor, memoryview(memory), offset)
    return bytes(memory[:count])


def read_into(descriptor: int, memory: memoryview, offset: int) -> None:
    """Fills memory with the bytes from `offset` on.

    Raises:
        EOFError: the file ends before.
    """
    while len(memory):
        count = _read_once(descriptor, memory, offset)
        if count == 0:
            raise EOFError(f"it ended at byte {offset}, {len(memory)} too early")
        memory, offset = memory[count:], offset + count


def write_from(descriptor: int, memory: memoryview, offset: int) -> None:
    """Writes all of memory to the bytes from `offset` on."""
    while len(memory):
        count = _write_once(descriptor, memory, offset)
        memory, offset = memory[count:], offset + count


def _read_once(descriptor: int, memory: memoryview, offset: int) -> int:
    """Reads what one call can, at most 2 GiB; how many bytes came."""
    if _HAS_POSITIONS:
        return os.preadv(descriptor, [memory], offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        found = os.read(descriptor, min(len(memory), _MOST_AT_ONCE))
    memory[: len(found)] = found
    return len(found)


def _write_once(descriptor: int, memory: memoryview, offset: int) -> int:
    """Writes what one call can; how many bytes went."""
    if _HAS_POSITIONS:
        return os.pwrite(descriptor, memory, offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, memory[:_MOST_AT_ONCE])
