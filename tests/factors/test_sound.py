"""Samples that are not those that were written: found where they are read, whatever times say."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import damaged_bytes
from pools import assert_same, random_factors
from safetensors.torch import load_file, save_file

from fishermask_fast import GradientFactors, StoredFactors, save_factors, select_batch
from fishermask_fast.factors import checksums

N = 41


@pytest.fixture
def factors(generator: torch.Generator) -> GradientFactors:
    return random_factors(generator, n=N, head="part")


@pytest.fixture(params=[1, 300, 2**20], ids=lambda size: f"blocks of {size} bytes")
def path(
    factors: GradientFactors,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setattr(checksums, "_BLOCK_BYTES", request.param)
    return save_factors(factors, tmp_path / "pool.safetensors").path


def flip(content: bytearray) -> None:
    content[-5] ^= 1


def fill(content: bytearray) -> None:
    content[-400:] = torch.full((50,), 3.0, dtype=torch.float64).numpy().tobytes()


def swap(content: bytearray) -> None:
    """Two samples of the last part in each other's place."""
    size = 8 * 3 * 5  # (r, k_mid) float64 of the fixture
    content[-size:], content[-2 * size : -size] = content[-2 * size : -size], content[-size:]


CHANGES: dict[str, Callable[[bytearray], None]] = {"flip": flip, "fill": fill, "swap": swap}
READERS: dict[str, Callable[[StoredFactors], object]] = {
    "pass": lambda stored: list(stored.chunks(10)),
    "samples": lambda stored: stored[torch.tensor([N - 1, 1])],
    "sample": lambda stored: stored[N - 1],
    "range": lambda stored: stored[30:],
    "fisher": lambda stored: stored.fisher(),
    "selection": lambda stored: select_batch(stored, 5),
}


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    """Another content in the same file, whose times of content are as before."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_were_rewritten_before_they_are_opened(
    change: str, read: str, path: Path
) -> None:
    rewrite(path, CHANGES[change])
    stored = StoredFactors(path)
    with pytest.raises(ValueError, match=r"pool.safetensors is damaged or was changed: samples \d"):
        READERS[read](stored)


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_rewritten_after_they_were_read(
    change: str, read: str, settled: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:
        monkeypatch.setattr("fishermask_fast.factors.sound._SETTLED_NS", -(10**18))
    stored = StoredFactors(path)
    READERS[read](stored)
    rewrite(path, CHANGES[change])
    with pytest.raises(ValueError, match=r"pool.safetensors is damaged or was changed"):
        READERS[read](stored)


def test_files_that_are_rewritten_within_a_pass(path: Path) -> None:
    chunks = StoredFactors(path).chunks(10)
    next(chunks)
    rewrite(path, flip)
    with pytest.raises(ValueError, match="pool.safetensors is damaged or was changed"):
        list(chunks)


def test_no_damage_of_samples_gives_other_samples(path: Path, factors: GradientFactors) -> None:
    stored = StoredFactors(path)
    start = min(part.offset for part in stored._layout.rows().values())
    whole = path.read_bytes()
    for damaged in damaged_bytes(whole[start:], 20):
        if damaged != whole[start:]:
            path.write_bytes(whole[:start] + damaged)
            with pytest.raises(ValueError, match=r"pool\.safetensors"):
                StoredFactors(path)[:]


@pytest.mark.parametrize("what", ["mode", "link", "rename", "replaced", "removed"])
def test_what_leaves_a_file_as_it_was(
    what: str, path: Path, factors: GradientFactors, tmp_path: Path
) -> None:
    stored = StoredFactors(path)
    stored.fisher()
    changes: dict[str, Callable[[], object]] = {
        "mode": lambda: path.chmod(0o600),
        "link": lambda: os.link(path, tmp_path / "another"),
        "rename": lambda: path.rename(tmp_path / "another"),
        "replaced": lambda: save_factors(factors[:3], path),
        "removed": path.unlink,
    }
    changes[what]()
    assert_same(stored[:], factors)


def test_files_of_other_writers_must_stay_untouched(path: Path, factors: GradientFactors) -> None:
    save_file(load_file(path), path)
    stored = StoredFactors(path)
    assert_same(stored[:], factors)
    rewrite(path, flip)
    with pytest.raises(ValueError, match="pool.safetensors was changed while in use"):
        stored[:]


def test_another_file_in_another_process(path: Path, factors: GradientFactors) -> None:
    elsewhere = pickle.dumps(StoredFactors(path))
    assert_same(pickle.loads(elsewhere)[:], factors)
    save_factors(factors[torch.arange(N - 1, -1, -1)], path)
    with pytest.raises(ValueError, match="pool.safetensors holds other gradients than when"):
        pickle.loads(elsewhere)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 12])
def test_files_that_are_not_all_written(kept: int, path: Path) -> None:
    """The checksums come last; where a power cut leaves some of them, the file is none."""
    content = path.read_bytes()
    name = b'"sample_checksums": "'
    start = content.index(name) + len(name)
    stop = content.index(b'"', start)
    text = content[start : start + kept].ljust(stop - start, b"-")
    path.write_bytes(content[:start] + text + content[stop:])
    expected = "not all of its samples were written" if kept == 0 else "damaged: the checksums"
    with pytest.raises(ValueError, match=expected):
        StoredFactors(path)


def test_blocks_of_large_files_fit_into_a_header() -> None:
    for n, size in ((10**9, 2000), (10**6, 2**21), (10**6, 10**8), (3, 0), (0, 5), (0, 0)):
        block = checksums.samples_per_sum(n, size)
        assert block >= 1
        assert n / block <= 2**20
