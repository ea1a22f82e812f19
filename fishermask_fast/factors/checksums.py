"""Checksums of the samples in a file, as its header holds them.

Consecutive samples of about 1 MiB, a block, have one CRC-32, over their rows of each part in turn.
The header holds these as hexadecimal text of a length that is known before the samples are, and
after them the CRC-32 of that text.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_DIGITS = 8
_UNWRITTEN = "-"
_BLOCK_BYTES = 2**20
_MOST_BLOCKS = 2**16


def samples_per_sum(n: int, sample_bytes: int) -> int:
    """Samples of a block, in a file of n: more where blocks would be too many for a header."""
    size = max(_BLOCK_BYTES, n * sample_bytes // _MOST_BLOCKS)
    return min(max(1, size // max(sample_bytes, 1)), max(n, 1))


def unwritten(n: int) -> str:
    """What stands for the checksums of n blocks until all samples are written."""
    return _UNWRITTEN * _DIGITS * (n + 1)


def sums_text(sums: Sequence[int]) -> str:
    """The checksums of all blocks, and one of these."""
    text = "".join(f"{one:0{_DIGITS}x}" for one in sums)
    return text + f"{zlib.crc32(text.encode()):0{_DIGITS}x}"


def parse_sums(text: str, n: int) -> tuple[int, ...]:
    """The checksums of n blocks.

    Raises:
        ValueError: it is no text of these, or not all samples were written.
    """
    if text == unwritten(n):
        raise ValueError("not all of its samples were written")
    try:
        sums = tuple(int(text[at : at + _DIGITS], 16) for at in range(0, n * _DIGITS, _DIGITS))
    except ValueError:
        sums = ()
    if len(sums) != n or sums_text(sums) != text:
        raise ValueError("damaged: the checksums of its samples are not as they were written")
    return sums
