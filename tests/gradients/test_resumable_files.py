"""Files of gradients on disks without room, of unknown origin, changed, or taken by another."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import some_of_each
from pools import assert_same
from resumable_pool import (  # noqa: F401
    BATCH,
    N,
    Pool,
    a_begun,
    a_mask,
    a_model,
    a_path,
    a_whole,
    part_of,
    record_of,
)
from torch import Tensor, nn

from fishermask_fast import (
    FisherMask,
    masked_gradients,
    save_factors,
)
from fishermask_fast.factors import sound, tensor_file
from fishermask_fast.gradients import resumable


def test_files_of_unknown_origin_are_left_alone(
    model: nn.Module, mask: FisherMask, path: Path
) -> None:
    save_factors(masked_gradients(model, Pool(), mask), path)
    with pytest.raises(ValueError, match=r"other gradients.*model \(not stated there\)"):
        masked_gradients(model, Pool(), mask, out=path)
    path.write_bytes(b"somebody's thesis")
    with pytest.raises(ValueError, match="no safetensors file"):
        masked_gradients(model, Pool(), mask, out=path)
    path.rename(part_of(path))
    for record in (None, "{", "[]", '{"samples": 4}'):
        if record is not None:
            record_of(path).write_text(record)
        with pytest.raises(ValueError, match="part.json does not say what it holds"):
            masked_gradients(model, Pool(), mask, out=path)
    assert part_of(path).read_bytes() == b"somebody's thesis"


@pytest.mark.parametrize("change", ["shorter", "header"])
def test_a_begun_file_that_was_changed(
    model: nn.Module, mask: FisherMask, begun: Path, change: str
) -> None:
    with part_of(begun).open("r+b") as file:
        if change == "shorter":
            file.truncate(part_of(begun).stat().st_size - 1)
        else:
            file.seek(20)
            file.write(b"x")
    with pytest.raises(ValueError, match="has been changed since it was begun; delete it"):
        masked_gradients(model, Pool(), mask, out=begun)


class Root(nn.Module):
    """Finite at 0, with a gradient there that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


@pytest.mark.parametrize(
    ("value", "what"), [(torch.nan, "the model's logits"), (0.0, "masked gradients")]
)
def test_what_is_not_finite_is_not_written(value: float, what: str, path: Path) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6, bias=False), Root(), nn.Linear(6, 4)
    )  # fmt: skip
    mask, pool = some_of_each(model), Pool()
    pool.samples[18] = value
    with pytest.raises(ValueError, match=f"{what} must be finite.*first at index 18"):
        masked_gradients(model, pool, mask, batch_size=BATCH, out=path)
    assert json.loads(record_of(path).read_text())["samples"] == 16
    expected = masked_gradients(model, Pool(), mask, batch_size=BATCH)
    assert_same(masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)[:], expected)


def test_a_disk_without_room_is_found_before_any_batch_is_lost(
    model: nn.Module, mask: FisherMask, path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="no room for 0.00 GiB.*gradients.safetensors.part"):
            masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(path.parent.iterdir()) == []
    assert len(masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)) == N


@pytest.mark.parametrize("step", ["write_rows", "fdatasync"])
def test_a_full_disk_keeps_what_is_written(
    step: str,
    model: nn.Module,
    mask: FisherMask,
    path: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner: Any = resumable if step == "write_rows" else resumable.os
    real, calls = getattr(owner, step), []

    def fill(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fill)
        with pytest.raises(OSError, match="the disk is full; .*goes on.*part") as caught:
            masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert caught.value.errno == errno.ENOSPC
    assert json.loads(record_of(path).read_text())["samples"] == 12
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == whole


def test_pages_of_a_file_that_memory_cannot_keep_are_given_back(
    model: nn.Module, mask: FisherMask, path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = []
    real = resumable.drop_pages

    def watch(descriptor: int, layout: Any, start: int, n: int) -> None:
        dropped.append((start, n))
        real(descriptor, layout, start, n)

    monkeypatch.setattr(resumable, "drop_pages", watch)
    monkeypatch.setattr(tensor_file, "available_memory", lambda device: len(whole) + 1)
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == whole
    assert dropped == [*((at, BATCH) for at in range(0, 20, BATCH)), (20, 3)]


def test_file_systems_that_cannot_reserve(
    model: nn.Module, mask: FisherMask, path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(resumable.os, "posix_fallocate", refuse)
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("written", [0, 5, 8, 11])
def test_a_run_that_ends_while_it_writes_checksums(
    written: int,
    model: nn.Module,
    mask: FisherMask,
    path: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = sound.write_from

    def stop(descriptor: int, memory: memoryview, offset: int) -> None:
        real(descriptor, memory[:written], offset)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sound, "write_from", stop)
        with pytest.raises(KeyboardInterrupt):
            masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert not path.exists()
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == whole


@pytest.fixture
def another_writer(begun: Path) -> Iterator[None]:
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(part_of(begun))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    yield
    process.communicate()


@pytest.mark.usefixtures("another_writer")
def test_one_process_writes_at_a_time(model: nn.Module, mask: FisherMask, begun: Path) -> None:
    with pytest.raises(BlockingIOError, match="another process is writing this file.*part"):
        masked_gradients(model, Pool(), mask, batch_size=BATCH, out=begun)


def test_a_file_made_meanwhile_is_not_overwritten(
    model: nn.Module, mask: FisherMask, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = resumable.write_rows

    def meddle(*args: Any) -> None:
        path.write_bytes(b"somebody's thesis")
        real(*args)

    monkeypatch.setattr(resumable, "write_rows", meddle)
    with pytest.raises(ValueError, match="has come to be while"):
        masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == b"somebody's thesis" and part_of(path).exists()


def test_paths_that_cannot_be(model: nn.Module, mask: FisherMask, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="out must be a path; got 3"):
        masked_gradients(model, Pool(), mask, out=3)  # type: ignore[call-overload]
    with pytest.raises(FileNotFoundError, match="out must be in a folder that exists"):
        masked_gradients(model, Pool(), mask, out=tmp_path / "no" / "file")
