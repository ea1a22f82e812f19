"""Gradient factors as a safetensors file: where each part of each sample lies.

    [ header's length | JSON header | head_index | hidden | coupling | middle ]

The length takes 8 bytes and the header is padded to 8; numbers are little-endian. The samples of a
part lie one after the other, so that a range of samples is one range of bytes in each part. Any
reader of safetensors reads the file. A checksum in its metadata covers header and head_index, and
those of checksums.py cover the samples.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.factors.bytes_at import bytes_of, read_bytes, read_into, write_from
from fishermask_fast.factors.checksums import parse_sums, samples_per_sum, unwritten
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.files import checksum, parse_json
from fishermask_fast.memory import available_memory

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
}
FLOATS = ("F64", "F32", "BF16", "F16")
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ROWS = ("hidden", "coupling", "middle")
_PARTS = ("head_index", *_ROWS)
_CHECKSUM = "checksum"
_BLOCK = "samples_per_checksum"
SUMS = "sample_checksums"
_LARGEST = 2**62
_MAX_HEADER = 100 * 10**6  # safetensors' own limit
_ALIGNMENT = 64
_CAN_ADVISE = hasattr(os, "posix_fadvise")  # which macOS and Windows do without


@dataclass(frozen=True)
class Part:
    """One tensor of the file: its rows are samples, but for head_index."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def n_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file lie, and what its header says besides.

    Attributes:
        parts: by name.
        metadata: texts.
        size: of the file, in bytes.
        block: samples that share a checksum; 0 where there are none, as in files of other writers.
        sums: the checksum of each block; None until all samples are written.
    """

    parts: dict[str, Part]
    metadata: dict[str, str]
    size: int
    block: int = 0
    sums: tuple[int, ...] | None = None

    @property
    def n(self) -> int:
        """Samples."""
        return self.parts["middle"].shape[0]

    @property
    def n_blocks(self) -> int:
        """Blocks of samples that share a checksum."""
        return -(-self.n // self.block) if self.block else 0

    @property
    def identity(self) -> str:
        """The same for files of the same content; of those without checksums, of the same form."""
        form = {name: [str(part.dtype), *part.shape] for name, part in self.parts.items()}
        return checksum({"parts": form, "metadata": self.metadata, "sums": self.sums})

    @cached_property
    def outgrows_memory(self) -> bool:
        """Whether a pass over the file would evict what the next pass begins with.

        Handing such a file's pages back at once spares the kernel the search for others.
        """
        if not _CAN_ADVISE:
            return False
        memory = available_memory("cpu")
        return memory is not None and 2 * self.size > memory

    def rows(self) -> dict[str, Part]:
        """The parts whose rows are samples."""
        return {name: part for name, part in self.parts.items() if name != "head_index"}


def plan_file(factors: GradientFactors, n: int, metadata: dict[str, str]) -> tuple[bytes, Layout]:
    """Header and layout of a file of n samples like those of `factors`."""
    shapes = {"middle": (n, *factors.middle.shape[1:])}
    if factors.coupling is not None and factors.hidden is not None:
        shapes["coupling"] = (n, *factors.coupling.shape[1:])
        shapes["hidden"] = (n, *factors.hidden.shape[1:])
    if factors.head_index is not None:
        shapes["head_index"] = tuple(factors.head_index.shape)
    entries: dict[str, Any] = {}
    parts, at = {}, 0
    for name in _PARTS:
        if name not in shapes:
            continue
        dtype = torch.int64 if name == "head_index" else factors.dtype
        part = Part(dtype, shapes[name], at)
        parts[name] = part
        at += part.n_bytes
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(part.shape),
            "data_offsets": [part.offset, at],
        }
    index = b"" if factors.head_index is None else _index_bytes(factors.head_index)
    block = samples_per_sum(n, sum(parts[name].row_bytes for name in _ROWS if name in parts))
    stated = {**metadata, _BLOCK: str(block)}
    stated |= {_CHECKSUM: _checksum(stated, entries, index), SUMS: unwritten(-(-n // block))}
    text = json.dumps({"__metadata__": stated, **entries}).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    parts = {
        name: Part(part.dtype, part.shape, len(header) + part.offset)
        for name, part in parts.items()
    }
    return header, Layout(parts, metadata, len(header) + at, block)


@dataclass(frozen=True)
class Header:
    """What a safetensors file states of itself.

    Attributes:
        entries: as written, by name.
        metadata: texts.
        tensors: dtype, shape, and first and last byte of each.
        start: of the data.
        size: of the file, in bytes.
    """

    entries: dict[str, Any]
    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    start: int
    size: int

    def part(self, name: str) -> Part:
        """One tensor of factors.

        Raises:
            ValueError: it is of another dtype, or its bytes are not as many as its shape takes.
        """
        dtype, shape, begin, stop = self.tensors[name]
        if dtype not in _DTYPES:
            raise ValueError(f"{name} is {dtype}; expected F64, F32, BF16 or F16")
        part = Part(_DTYPES[dtype], shape, begin)
        if part.n_bytes != stop - begin:
            raise ValueError(
                f"{name} is {dtype} {shape}, {part.n_bytes} bytes; its header gives it "
                f"{stop - begin}"
            )
        return part


def read_header(descriptor: int) -> Header:
    """The header of any safetensors file.

    Raises:
        ValueError: what makes it none.
    """
    size = os.fstat(descriptor).st_size
    start = read_bytes(descriptor, 8, 0)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(_MAX_HEADER, max(size - 8, 0)):
        raise ValueError(f"no safetensors file (its {size} bytes do not begin with a header)")
    try:
        entries = parse_json(read_bytes(descriptor, length, 8))
        metadata = _read_metadata(entries.pop("__metadata__", {}))
        stated = {name: _read_entry(name, entry, 8 + length) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no safetensors file (unreadable header: {error})") from error
    return Header(entries, metadata, stated, 8 + length, size)


def read_layout(descriptor: int, *, whole: bool = True) -> Layout:
    """The layout that a file's header states.

    Args:
        descriptor: of the file.
        whole: whether all samples must have been written; else their checksums are left out.

    Raises:
        ValueError: what makes it no whole safetensors file of factors.
    """
    header = read_header(descriptor)
    parts = {name: header.part(name) for name in _PARTS if name in header.tensors}
    if "middle" not in parts:
        found = ", ".join(sorted(header.tensors)) or "none"
        raise ValueError(f"expected the part middle (N, r, k_mid); its parts: {found}")
    check_places(header)
    metadata = header.metadata
    known, sums = metadata.pop(_CHECKSUM, None), metadata.pop(SUMS, None)
    if known is None:  # which other writers of such files do not state
        return Layout(parts, metadata, header.size)
    index = b""
    if "head_index" in parts:
        index = read_bytes(descriptor, parts["head_index"].n_bytes, parts["head_index"].offset)
    if _checksum(metadata, header.entries, index) != known:
        raise ValueError("damaged: its header does not have the checksum that it states")
    layout = Layout(parts, metadata, header.size, int(metadata.pop(_BLOCK, "0")))
    if not layout.block or not whole:
        return layout
    return replace(layout, sums=parse_sums(sums or "", layout.n_blocks))


def _checksum(metadata: dict[str, str], entries: dict[str, Any], index: bytes) -> str:
    return checksum({"__metadata__": metadata, **entries}, index)


def _read_metadata(stated: Any) -> dict[str, str]:
    if not all(isinstance(value, str) for value in stated.values()):
        raise TypeError("its metadata must be texts")
    return dict(stated)


def _read_entry(name: str, entry: Any, start: int) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, and first and last byte of a tensor in a file whose data begin at `start`."""
    dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError(f"dtype and shape of {name} must be a text and a list")
    if any(type(size) is not int or not 0 <= size <= _LARGEST for size in (*shape, begin, stop)):
        raise ValueError(
            f"sizes of {name} must be whole numbers from 0; its header gives it {shape}, bytes "
            f"{begin} to {stop}"
        )
    return dtype, tuple(shape), start + begin, start + stop


def check_places(header: Header) -> None:
    """Raise unless the tensors follow one another from the header to the end of the file.

    Raises:
        ValueError: says where they do not.
    """
    start, size = header.start, header.size
    at = start
    for _, _, begin, stop in sorted(header.tensors.values(), key=lambda entry: entry[2:]):
        if begin != at or stop < begin:
            raise ValueError(
                f"its tensors must follow one another; at byte {at - start} its header gives one "
                f"{begin - start} to {stop - start}"
            )
        at = stop
    if size < at:
        raise ValueError(f"truncated: its header states {at} bytes; it has {size}")
    if size > at:
        raise ValueError(f"its header states {at} bytes; it has {size}")


def outline(descriptor: int, layout: Layout) -> GradientFactors:
    """Factors of the file's shapes and head_index whose other numbers take no memory.

    Raises:
        TypeError, ValueError: the parts do not fit together.
    """
    shapes = {
        name: torch.empty((), dtype=part.dtype).expand(part.shape)
        for name, part in layout.rows().items()
    }
    index = None
    if "head_index" in layout.parts:
        part = layout.parts["head_index"]
        index = torch.empty(part.shape, dtype=part.dtype)
        read_into(descriptor, bytes_of(index), part.offset)
    return GradientFactors(shapes["middle"], shapes.get("coupling"), shapes.get("hidden"), index)


def empty_rows(layout: Layout, n: int) -> dict[str, Tensor]:
    """Memory for n samples, by part: views of one aligned buffer."""
    sizes = {name: n * part.row_bytes for name, part in layout.rows().items()}
    padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values()]
    buffers = torch.empty(sum(padded), dtype=torch.uint8).split(padded)
    return {
        name: buffer[: sizes[name]].view(part.dtype).view(n, *part.shape[1:])
        for buffer, (name, part) in zip(buffers, layout.rows().items(), strict=True)
    }


def read_rows(descriptor: int, layout: Layout, start: int, rows: dict[str, Tensor]) -> None:
    """Reads the samples from `start` on into contiguous tensors of n rows.

    Raises:
        EOFError: the file has become shorter.
    """
    for name, part in layout.rows().items():
        read_into(descriptor, bytes_of(rows[name]), part.offset + start * part.row_bytes)


def read_samples(
    descriptor: int, layout: Layout, samples: list[int], places: list[int], rows: dict[str, Tensor]
) -> None:
    """Reads single samples, each into its place in contiguous tensors.

    Raises:
        EOFError: the file has become shorter.
    """
    for name, part in layout.rows().items():
        memory, size = bytes_of(rows[name]), part.row_bytes
        if _CAN_ADVISE:
            for sample in samples:
                advise(descriptor, part, sample, 1, os.POSIX_FADV_WILLNEED)
        for sample, place in zip(samples, places, strict=True):
            row = memory[place * size : (place + 1) * size]
            read_into(descriptor, row, part.offset + sample * size)


def write_start(descriptor: int, header: bytes, layout: Layout, index: Tensor | None) -> None:
    """Writes the header and head_index."""
    write_from(descriptor, memoryview(header), 0)
    if index is not None:
        write_from(descriptor, memoryview(_index_bytes(index)), layout.parts["head_index"].offset)


def write_rows(descriptor: int, layout: Layout, start: int, factors: GradientFactors) -> None:
    """Writes samples to their places, from sample `start` on."""
    for name, part in layout.rows().items():
        rows = getattr(factors, name).detach().cpu().contiguous()
        write_from(descriptor, bytes_of(rows), part.offset + start * part.row_bytes)


def drop_pages(descriptor: int, layout: Layout, start: int, n: int) -> None:
    """Hands back the memory in which the kernel keeps n samples that are on the disk."""
    for part in layout.rows().values():
        advise(descriptor, part, start, n, os.POSIX_FADV_DONTNEED)


def advise(descriptor: int, part: Part, start: int, n: int, advice: int) -> None:
    """Tells the kernel what becomes of n samples of a part."""
    size = n * part.row_bytes
    if size:  # 0 would mean up to the end of the file
        os.posix_fadvise(descriptor, part.offset + start * part.row_bytes, size, advice)


def _index_bytes(index: Tensor) -> bytes:
    return bytes(bytes_of(index.detach().cpu().contiguous()))
