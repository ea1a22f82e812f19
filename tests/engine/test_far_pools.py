"""Pools in files, or on their way to a device in chunks: the picks of a pool in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pools import HEADS, assert_same_course, picks, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, StoredFactors, save_factors, select_batch
from fishermask_fast.engine import inputs as rooms
from fishermask_fast.factors.streaming import FactorSource, StreamedFactors

N = 300


def problem(generator: torch.Generator, head: str, **more: Any) -> dict[str, Any]:
    factors = random_factors(generator, n=N, r=4, m=9, c=5, d=6, head=head, dtype=torch.float32)
    fisher = random_fisher(generator, factors.n_columns)
    return {"gradients": factors, "n_select": 110, "fisher": fisher, "lamb": 0.02, **more}


def far(factors: GradientFactors, kind: str, tmp_path: Path, chunk: int) -> FactorSource:
    """The same factors in a file or streamed, so that a pass takes many chunks."""
    if kind == "streamed":
        return StreamedFactors(factors, torch.device("cpu"), chunk * 300)
    stored = save_factors(factors, tmp_path / "pool.safetensors")
    chunks = stored.chunks
    stored.chunks = lambda size=None: chunks(size or chunk)  # type: ignore[method-assign]
    return stored


@pytest.fixture(autouse=True)
def streamed_is_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """What select_batch makes of a pool that a GPU has no room for, on the CPU."""
    as_source = rooms.as_source

    def accept(gradients: object) -> FactorSource:
        return gradients if isinstance(gradients, StreamedFactors) else as_source(gradients)

    monkeypatch.setattr("fishermask_fast.selection.as_source", accept)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_chunks_of_any_size(
    kind: str, chunk: int, generator: torch.Generator, tmp_path: Path
) -> None:
    given = problem(generator, "part")
    pool = far(given["gradients"], kind, tmp_path, chunk)
    assert_same_course(select_batch(**given | {"gradients": pool}), select_batch(**given))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_heads_and_removals(
    kind: str, head: str, generator: torch.Generator, tmp_path: Path
) -> None:
    given = problem(generator, head, n_select=60, backward_steps=1, block_size=5)
    pool = far(given["gradients"], kind, tmp_path, 50)
    assert_same_course(select_batch(**given | {"gradients": pool}), select_batch(**given))


@pytest.mark.parametrize("kind", ["stored", "streamed"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_the_pools_own_fisher(
    dtype: torch.dtype, kind: str, generator: torch.Generator, tmp_path: Path
) -> None:
    given = problem(generator, "whole", n_select=40, fisher=None)
    given["gradients"] = given["gradients"].to(dtype=dtype)
    pool = far(given["gradients"], kind, tmp_path, 50)
    assert_same_course(select_batch(**given | {"gradients": pool}), select_batch(**given))


def test_equal_samples_are_picked_in_order(tmp_path: Path) -> None:
    pool = GradientFactors(torch.ones(200, 2, 5))
    stored = far(pool, "stored", tmp_path, 9)
    assert picks(select_batch(stored, 50)) == list(range(50))


def test_a_pass_serves_more_picks(generator: torch.Generator, tmp_path: Path) -> None:
    given = problem(generator, "none", n_select=96)
    near = select_batch(**given)
    found = select_batch(**given | {"gradients": far(given["gradients"], "stored", tmp_path, 50)})
    assert found.passes < near.passes


def test_samples_that_are_not_finite_are_named(tmp_path: Path) -> None:
    pool = torch.randn(40, 2, 5)
    pool[33, 1, 2] = torch.nan
    stored = far(GradientFactors(pool), "stored", tmp_path, 8)
    for fisher in (None, torch.eye(5)):
        with pytest.raises(ValueError, match="gradients must be finite.*index 33"):
            select_batch(stored, 3, fisher)


def test_a_file_that_shrinks_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    save_factors(GradientFactors(torch.randn(40, 2, 5)), path)
    stored = StoredFactors(path)
    path.open("r+b").truncate(1000)
    with pytest.raises(ValueError, match="cut short"):
        select_batch(stored, 3, torch.eye(5))


@pytest.mark.parametrize("device", ["nowhere", 1.5, "meta"])
def test_devices_that_cannot_be(device: Any) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match="device must be"):
        select_batch(torch.randn(4, 2, 3), 1, device=device)


def test_the_cpu_by_name(generator: torch.Generator) -> None:
    given = problem(generator, "part", n_select=20)
    assert_same_course(select_batch(**given, device="cpu"), select_batch(**given))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "has_cuda_ops", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pool = GradientFactors(torch.randn(4, 2, 3))
    assert rooms.check_device("cuda:1", pool) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device must be the CPU, or a GPU .* got cuda:2"):
        rooms.check_device("cuda:2", pool)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("free", "cached"), [(3, 0), (0, 3)])
def test_room_for_halves_is_room_for_float32(
    dtype: torch.dtype, free: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = GradientFactors(torch.randn(40, 2, 5).to(dtype))
    size = pool.middle.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * size, 9 * size))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: (2 + cached) * size)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * size)
    streamed: list[object] = []
    monkeypatch.setattr(rooms, "StreamedFactors", lambda source, device: streamed.append(source))
    rooms.computable(pool, torch.device("cuda", 0))
    assert streamed == [pool]

    def moved(self: GradientFactors, device: torch.device, dtype: torch.dtype) -> object:
        return device, dtype

    monkeypatch.setattr(rooms, "_SHARE_OF_GPU", 0.75)
    monkeypatch.setattr(GradientFactors, "to", moved)
    found: object = rooms.computable(pool, torch.device("cuda", 0))
    assert found == (torch.device("cuda", 0), torch.float32)


def test_the_heads_index_goes_to_the_device_once(generator: torch.Generator) -> None:
    factors = random_factors(generator, n=20, r=4, m=9, c=5, d=6, head="part")
    streamed = StreamedFactors(factors, torch.device("meta"), 1000)
    chunks = [chunk for _, chunk in streamed.chunks()]
    assert len(chunks) > 1
    assert streamed.head_index is not None and streamed.head_index.is_meta
    for part in (*chunks, streamed[torch.tensor([3, 1])]):
        assert part.head_index is streamed.head_index
        assert part.device == torch.device("meta")


@pytest.mark.cuda
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("kind", ["host", "stored"])
def test_pools_that_a_gpu_has_no_room_for(
    kind: str,
    pinned: bool,
    generator: torch.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = problem(generator, "part")
    expected = select_batch(**given)
    pool = given["gradients"]
    if kind == "stored":
        pool = far(pool, "stored", tmp_path, 50)
    elif pinned:
        pool = pool.map(Tensor.pin_memory)
    monkeypatch.setattr(rooms, "_SHARE_OF_GPU", 0.0)
    monkeypatch.setattr("fishermask_fast.factors.streaming._CHUNK_BYTES", 50 * 300)
    assert_same_course(select_batch(**given | {"gradients": pool}, device="cuda"), expected)


def spoil(file: Path, how: str) -> None:
    if how == "removed":
        file.unlink()
        return
    with file.open("r+b") as opened:
        size = file.stat().st_size
        if how == "truncated":
            opened.truncate(size // 2)
            return
        opened.seek(size // 2)
        value = torch.nan if how == "nan" else 3.0
        opened.write(torch.full((size // 16,), value).numpy().tobytes())


@pytest.mark.parametrize("at", [1, 2, 9, 40])
@pytest.mark.parametrize("how", ["nan", "finite", "truncated", "removed"])
def test_a_file_that_is_rewritten_while_it_is_read(
    how: str, at: int, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error that names the file, at once; what is removed can still be read."""
    given = problem(generator, "part")
    pool = far(given["gradients"], "stored", tmp_path, 64)
    read, calls = StoredFactors._read, 0

    def spoiling(self: StoredFactors, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            spoil(tmp_path / "pool.safetensors", how)
        read(self, *arguments)

    monkeypatch.setattr(StoredFactors, "_read", spoiling)
    if how == "removed":
        assert_same_course(select_batch(**given | {"gradients": pool}), select_batch(**given))
        return
    with pytest.raises((ValueError, OSError), match=r"pool\.safetensors.*(changed|ends|short)"):
        select_batch(**given | {"gradients": pool})
    assert calls <= at + 1  # the next chunk is read ahead
