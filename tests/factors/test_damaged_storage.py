"""Files that are no factors, are damaged, or change while they are read: one clear error."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import damaged_bytes
from pools import assert_same, random_factors
from safetensors.torch import load_file, save_file

from fishermask_fast import GradientFactors, StoredFactors, save_factors


@pytest.fixture
def saved(generator: torch.Generator, tmp_path: Path) -> tuple[GradientFactors, StoredFactors]:
    factors = random_factors(generator, n=41, head="part")
    return factors, save_factors(factors, tmp_path / "factors.safetensors")


def tensors(**parts: Any) -> bytes:
    """A file of (dtype, shape) tensors of zeros."""
    sizes = {"F32": 4, "I32": 4, "I64": 8, "F64": 8, "BOOL": 1}
    header, at = {}, 0
    for name, (dtype, shape) in parts.items():
        size = sizes[dtype] * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


MIDDLE = ("F32", (4, 2, 3))
WHOLE = tensors(middle=MIDDLE)
BAD_FILES = [
    (b"", "no safetensors file"),
    (b"abc", "no safetensors file"),
    (b"PK\x03\x04" + bytes(200), "no safetensors file"),
    (struct.pack("<Q", 8) + b"no json!", "no safetensors file"),
    (struct.pack("<Q", 2) + b"[]", "no safetensors file"),
    (struct.pack("<Q", 2) + b"{}", "expected the part middle .* its parts: none"),
    (struct.pack("<Q", 14) + b'{"middle": {}}', "no safetensors file"),
    (WHOLE[:-1], f"truncated: its header states {len(WHOLE)} bytes; it has {len(WHOLE) - 1}"),
    (WHOLE[:20], "no safetensors file"),
    (WHOLE.replace(b"96]", b"92]"), "middle is F32 .* 96 bytes; its header gives it 92"),
    (WHOLE.replace(b"[0, 9", b"[-9,8"), "header gives it"),
    (tensors(gradients=MIDDLE), "expected the part middle .* its parts: gradients"),
    (tensors(middle=("I32", (4, 2, 3))), "middle is I32; expected F64, F32, BF16 or F16"),
    (tensors(middle=("I64", (4, 2, 3))), "middle must be float16, .* got torch.int64"),
    (tensors(middle=("F32", (4, 2))), r"middle must have shape \(N, r, k\); got \(4, 2\)"),
    (tensors(middle=MIDDLE, hidden=("F32", (4, 5))), "give both or neither"),
    (
        tensors(middle=MIDDLE, coupling=("F32", (4, 2, 6)), hidden=("F32", (3, 5))),
        "hidden holds 3 samples; expected middle's 4",
    ),
    (
        tensors(middle=MIDDLE, coupling=("F32", (4, 3, 6)), hidden=("F32", (4, 5))),
        "coupling has 3 rows a sample; expected 2",
    ),
    (
        tensors(middle=MIDDLE, coupling=("F64", (4, 2, 6)), hidden=("F32", (4, 5))),
        "coupling is torch.float64; expected middle's torch.float32",
    ),
    (tensors(middle=MIDDLE, head_index=("I64", (2,))), "head_index needs coupling"),
    (
        tensors(
            middle=MIDDLE,
            coupling=("F32", (4, 2, 6)),
            hidden=("F32", (4, 5)),
            head_index=("I64", (2,)),
        ),
        "head_index must be strictly increasing within 0..29",
    ),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)other.file does not hold .*{message}"):
        StoredFactors(path)


HEADERS_OF_OTHER_TYPES = [
    *((b"[4, 2, 3]", shape) for shape in (b"[4, 2, 3.0]", b"[4,2,-3]", b"4", b'"423"', b"null",
      b"[4, 2, true]", b"[4, 2, \"3\"]", b"[4, 2, 1e0]", b"[[4]]", b"{}", b"[4, 2, 10000000000]",
      b"[0, 4611686018427387904, 9223372036854775808]", b"[" * 100_000)),
    *((b"[0, 96]", places) for places in (b"[0, 96.0]", b"[0]", b"0", b"[96, 0]", b"[0, 96, 96]",
      b"[8, 104]", b"[-1, 95]", b'["0", "96"]', b"null", b"[false, 96]")),
    *((b'"F32"', dtype) for dtype in (b"3", b"null", b'["F32"]', b'"f32"', b'"F8"')),
    (b'{"middle"', b'{"__metadata__": [], "middle"'),
    (b'{"middle"', b'{"__metadata__": {"a": 3}, "middle"'),
    (b'{"middle"', b'{"__metadata__": {"checksum": "0"}, "middle"'),
    (b'{"middle"', b'{"middle": 3, "middle"'),
    (b'"middle": {', b'"middle": {"dtype": "F64", '),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), HEADERS_OF_OTHER_TYPES)
def test_headers_of_other_types_and_ranges(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.file"
    path.write_bytes(WHOLE)
    assert len(StoredFactors(path)) == 4
    length = struct.unpack("<Q", WHOLE[:8])[0]
    header, data = WHOLE[8 : 8 + length], WHOLE[8 + length :]
    assert old in header
    header = header.replace(old, new, 1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    with pytest.raises(ValueError, match="other.file does not hold gradient factors"):
        StoredFactors(path)


def test_no_damage_of_a_header_gives_another_record(
    saved: tuple[GradientFactors, StoredFactors], tmp_path: Path
) -> None:
    factors, stored = saved
    whole = stored.path.read_bytes()
    path = tmp_path / "damaged"
    start = min(part.offset for part in stored._layout.rows().values())
    refused = 0
    for content in damaged_bytes(whole, 60, stop=start):
        path.write_bytes(content)
        try:
            found = StoredFactors(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert_same(found[:], factors)
    assert refused > 200


def test_files_of_other_writers_state_no_checksum(
    saved: tuple[GradientFactors, StoredFactors], tmp_path: Path
) -> None:
    factors, stored = saved
    assert stored.metadata == {}
    save_file(load_file(stored.path), tmp_path / "theirs")
    assert_same(StoredFactors(tmp_path / "theirs")[:], factors)


@pytest.mark.parametrize("read", ["pass", "samples", "range", "fisher"])
def test_files_that_are_written_to_while_in_use(
    read: str, saved: tuple[GradientFactors, StoredFactors]
) -> None:
    _, stored = saved
    readers = {
        "pass": lambda: list(stored.chunks(10)),
        "samples": lambda: stored[torch.tensor([3, 1])],
        "range": lambda: stored[2:5],
        "fisher": stored.fisher,
    }
    readers[read]()
    with stored.path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"12345678")
    with pytest.raises(ValueError, match="factors.safetensors was changed while in use"):
        readers[read]()


def test_files_that_change_within_a_pass(saved: tuple[GradientFactors, StoredFactors]) -> None:
    _, stored = saved
    chunks = stored.chunks(10)
    next(chunks)
    with stored.path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"12345678")
    with pytest.raises(ValueError, match="factors.safetensors was changed while in use"):
        list(chunks)


def test_files_that_are_replaced_while_in_use(
    saved: tuple[GradientFactors, StoredFactors],
) -> None:
    factors, stored = saved
    save_factors(factors[:3], stored.path)
    assert_same(stored[:], factors)


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_is_no_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.mkdir() if what == "folder" else os.mkfifo(path)
    with pytest.raises(ValueError, match="must be the path of a file; got .*it'|it must be a file"):
        StoredFactors(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        StoredFactors(tmp_path / "missing")
