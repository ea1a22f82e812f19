"""Factors in a file: the same numbers by any way of reading."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
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
    with pytest.raises(ValueError, match="factors.safetensors was (cut short|changed)"):
        list(stored.chunks(3))
    with pytest.raises(ValueError, match="factors.safetensors was (cut short|changed)"):
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
