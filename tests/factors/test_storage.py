"""Factors in a file: the same numbers by any way of reading, and what is no such file."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import damaged_bytes
from pools import HEADS, assert_same, parts_of, random_factors
from safetensors.torch import load_file, save_file
from torch import Tensor

from fishermask_fast import GradientFactors, StoredFactors, save_factors
from fishermask_fast.factors import storage, tensor_file

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def saved(generator: torch.Generator, tmp_path: Path) -> tuple[GradientFactors, StoredFactors]:
    factors = random_factors(generator, n=41, head="part")
    return factors, save_factors(factors, tmp_path / "factors.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_is_read_here_and_by_safetensors(
    head: str, dtype: torch.dtype, generator: torch.Generator, tmp_path: Path
) -> None:
    factors = random_factors(generator, n=5, head=head, dtype=dtype)
    stored = save_factors(factors, tmp_path / "factors")
    assert_same(stored[:], factors)
    loaded = load_file(tmp_path / "factors")
    assert_same(GradientFactors(**loaded), factors)
    assert len(stored) == 5 and stored.dtype == dtype and stored.device.type == "cpu"
    assert (stored.n_rows, stored.n_columns) == (factors.n_rows, factors.n_columns)
    assert list(tmp_path.iterdir()) == [tmp_path / "factors"]


@pytest.mark.parametrize("head", HEADS)
def test_files_of_safetensors_are_read(
    head: str, generator: torch.Generator, tmp_path: Path
) -> None:
    factors = random_factors(generator, head=head, dtype=torch.float32)
    parts = {**parts_of(factors), "labels": torch.arange(len(factors), dtype=torch.int32)}
    save_file(parts, tmp_path / "factors", {"made by": "another"})
    stored = StoredFactors(tmp_path / "factors")
    assert_same(stored[:], factors)
    assert stored.metadata == {"made by": "another"}


def test_factors_are_saved_whatever_their_strides(tmp_path: Path) -> None:
    middle = torch.randn(7, 5, 3).transpose(1, 2)
    hidden = torch.randn(14, 4)[::2]
    with torch.inference_mode():
        coupling = torch.randn(7, 3, 1).expand(7, 3, 2)
    factors = GradientFactors(middle, coupling, hidden)
    assert_same(save_factors(factors, tmp_path / "factors")[:], factors)


INDICES = [
    0, -1, 17, slice(None), slice(5, 19), slice(-3, None), slice(9, 4), slice(None, None, 7),
    slice(20, 3, -4), torch.tensor([3, 3, 40, 0, -1, -41]), torch.arange(40, -1, -1),
    torch.tensor([], dtype=torch.int64), torch.tensor(8), torch.arange(41) % 3 == 0,
    torch.tensor([2, 1], dtype=torch.int32),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_samples_by_index(
    saved: tuple[GradientFactors, StoredFactors], index: int | slice | Tensor
) -> None:
    factors, stored = saved
    if isinstance(index, slice) and (index.step or 1) < 0:  # which tensors do not take
        assert_same(stored[index], factors[torch.tensor(range(41)[index])])
    else:
        assert_same(stored[index], factors[index])


@pytest.mark.parametrize(
    "index",
    [41, -42, torch.tensor([0, 41]), torch.tensor([-42]), torch.tensor([True]), torch.ones(3),
     torch.zeros(2, 2, dtype=torch.int64)],
    ids=str,
)  # fmt: skip
def test_samples_that_are_not_there(
    saved: tuple[GradientFactors, StoredFactors], index: int | Tensor
) -> None:
    with pytest.raises(IndexError, match="41"):
        saved[1][index]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 20, 40, 41, 1000, None])
def test_chunks_are_the_samples_in_order(
    head: str, chunk_size: int | None, generator: torch.Generator, tmp_path: Path
) -> None:
    factors = random_factors(generator, n=41, head=head)
    stored = save_factors(factors, tmp_path / "factors")
    kept, starts = [], []
    for start, chunk in stored.chunks(chunk_size):
        time.sleep(0.001)  # the next one is read meanwhile
        assert_same(chunk, factors[start : start + len(chunk)])
        starts.append(start)
        kept.append(chunk.to(dtype=torch.float32))
    assert starts == list(range(0, 41, chunk_size or 41))
    assert_same(GradientFactors.cat(kept), factors.to(dtype=torch.float32))


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (41, None), (3, 4), (7, 30), (39, 41)])
def test_chunks_of_a_range(
    saved: tuple[GradientFactors, StoredFactors], start: int, stop: int | None
) -> None:
    factors, stored = saved
    found = [
        (at, chunk.to(dtype=torch.float32))
        for at, chunk in stored.chunks(4, start=start, stop=stop)
    ]
    assert [at for at, _ in found] == list(range(start, 41 if stop is None else stop, 4))
    if found:
        expected = factors[start:stop].to(dtype=torch.float32)
        assert_same(GradientFactors.cat([chunk for _, chunk in found]), expected)


def test_the_next_chunk_is_read_while_this_one_is_used(
    saved: tuple[GradientFactors, StoredFactors], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stored = saved
    read: list[int] = []
    second = threading.Event()
    real = storage.read_rows

    def watch(descriptor: int, layout: Any, start: int, rows: dict[str, Tensor]) -> None:
        real(descriptor, layout, start, rows)
        read.append(start)
        if start == 10:
            second.set()

    monkeypatch.setattr(storage, "read_rows", watch)
    chunks = stored.chunks(10)
    next(chunks)
    assert second.wait(10)
    assert read == [0, 10]  # and no further: that would overwrite the first
    assert next(chunks)[0] == 10


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("fishermask_fast reader")]


def test_reading_ends_with_the_iteration(saved: tuple[GradientFactors, StoredFactors]) -> None:
    _, stored = saved
    chunks = stored.chunks(3)
    next(chunks)
    assert readers()
    chunks.close()  # type: ignore[attr-defined]
    assert not readers()
    for _ in stored.chunks(3):
        break
    with pytest.raises(KeyboardInterrupt):
        for _ in stored.chunks(3):
            raise KeyboardInterrupt
    assert not readers()
    list(stored.chunks(3))
    assert not readers()


def test_errors_of_reading_reach_the_caller(saved: tuple[GradientFactors, StoredFactors]) -> None:
    _, stored = saved
    with stored.path.open("r+b") as file:
        file.truncate(stored.path.stat().st_size - 8)
    with pytest.raises(ValueError, match="factors.safetensors was cut short"):
        list(stored.chunks(3))
    with pytest.raises(ValueError, match="factors.safetensors was cut short"):
        stored[torch.tensor([40, 0])]
    assert not readers()


@pytest.mark.parametrize(
    "bad", [{"chunk_size": 0}, {"start": -1}, {"stop": 42}, {"start": 5, "stop": 4}], ids=str
)
def test_ranges_of_chunks_are_checked(
    saved: tuple[GradientFactors, StoredFactors], bad: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must"):
        saved[1].chunks(**bad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_fisher(
    head: str,
    dtype: torch.dtype,
    generator: torch.Generator,
    tmp_path: Path,
    assert_close: Callable[..., None],
) -> None:
    factors = random_factors(generator, n=50, head=head, dtype=dtype)
    stored = save_factors(factors, tmp_path / "factors")
    v = factors.to(dtype=torch.float64).dense()
    expected = torch.einsum("nrk,nrl->kl", v, v) / len(v)
    for chunk_size in (None, 7):
        fisher = stored.fisher(chunk_size)
        assert torch.equal(fisher, fisher.T)
        assert_close(fisher, expected, k=50 * 3)


def test_no_samples(generator: torch.Generator, tmp_path: Path) -> None:
    factors = random_factors(generator, n=3)[:0]
    stored = save_factors(factors, tmp_path / "factors")
    assert len(stored) == 0 and list(stored.chunks()) == []
    assert_same(stored[:], factors)
    with pytest.raises(ValueError, match="empty pool"):
        stored.fisher()


def test_memory_is_two_chunks(
    saved: tuple[GradientFactors, StoredFactors], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = storage.empty_rows

    def count(layout: Any, n: int) -> dict[str, Tensor]:
        made.append(n)
        return real(layout, n)

    monkeypatch.setattr(storage, "empty_rows", count)
    list(saved[1].chunks(4))
    assert made == [4, 4]


def test_pages_of_a_file_that_memory_cannot_keep_are_given_back(
    saved: tuple[GradientFactors, StoredFactors], monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, stored = saved
    dropped = []
    real = storage.drop_pages

    def watch(descriptor: int, layout: Any, start: int, n: int) -> None:
        dropped.append((start, n))
        real(descriptor, layout, start, n)

    monkeypatch.setattr(storage, "drop_pages", watch)
    list(stored.chunks(20))
    assert dropped == []
    monkeypatch.setattr(tensor_file, "available_memory", lambda device: stored._layout.size + 1)
    for start, chunk in StoredFactors(stored.path).chunks(20):
        assert_same(chunk, factors[start : start + 20])
    assert dropped == [(0, 20), (20, 20), (40, 1)]


def test_stored_factors_go_to_other_processes(
    saved: tuple[GradientFactors, StoredFactors],
) -> None:
    factors, stored = saved
    assert_same(pickle.loads(pickle.dumps(stored))[:], factors)
    assert "(41, 3, 12)" in repr(stored)


def test_saving_replaces_whole_files_alone(
    saved: tuple[GradientFactors, StoredFactors], monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, stored = saved

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(storage, "write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        save_factors(factors[:3], stored.path)
    assert_same(StoredFactors(stored.path)[:], factors)
    assert list(stored.path.parent.iterdir()) == [stored.path]


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
