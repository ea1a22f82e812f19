"""Masked gradients into a file: the same numbers, and the same bytes wherever it was stopped."""

from __future__ import annotations

import errno
import json
import logging
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killed_gradients
import pytest
import torch
from networks import TextClassifier, some_of_each
from pools import assert_same
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fishermask_fast import (
    FisherMask,
    GradientFactors,
    StoredFactors,
    masked_gradients,
    save_factors,
)
from fishermask_fast.factors import tensor_file
from fishermask_fast.gradients import fingerprint, resumable
from fishermask_fast.gradients import passes as walk

N, BATCH = 23, 4


class Pool(Dataset[Tensor]):
    """Says which samples were read in batches, and stops at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.samples = torch.randn(N, 1, 8, 8, generator=generator)
        self.stop = stop
        self.walked: list[int] = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.samples[index]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        if self.stop in indices:
            raise KeyboardInterrupt
        self.walked += indices
        return [self.samples[i] for i in indices]


@pytest.fixture
def model() -> nn.Module:
    return killed_gradients.make_model().train()


@pytest.fixture
def mask(model: nn.Module) -> FisherMask:
    return killed_gradients.make_mask(model)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gradients.safetensors"


@pytest.fixture
def whole(model: nn.Module, mask: FisherMask, tmp_path: Path) -> bytes:
    folder = tmp_path / "whole"
    folder.mkdir()
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=folder / "file")
    assert [file.name for file in folder.iterdir()] == ["file"]
    return (folder / "file").read_bytes()


@pytest.fixture
def begun(model: nn.Module, mask: FisherMask, path: Path) -> Path:
    """A file that was stopped in its fourth batch."""
    with pytest.raises(KeyboardInterrupt):
        masked_gradients(model, Pool(14), mask, batch_size=BATCH, out=path)
    return path


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def record_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def no_recorder() -> bool:
    return not any(t.name.startswith("fishermask_fast recorder") for t in threading.enumerate())


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 100, None])
def test_the_file_holds_what_memory_would(
    model: nn.Module, mask: FisherMask, path: Path, batch_size: int | None
) -> None:
    expected = masked_gradients(model, Pool(), mask, batch_size=batch_size)
    assert isinstance(expected, GradientFactors) and expected.coupling is not None
    stored = masked_gradients(model, Pool(), mask, batch_size=batch_size, out=str(path))
    assert isinstance(stored, StoredFactors) and model.training
    assert_same(stored[:], expected)
    assert_same(GradientFactors(**load_file(path)), expected)
    assert no_recorder() and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("weighting", ["fisher", "none"])
@pytest.mark.parametrize("kind", ["tensor", "dataset", "loader", "workers", "indices", "double"])
def test_any_data_and_options(kind: str, weighting: str, path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4))
    data: Any = Pool().samples
    options: dict[str, Any] = {"weighting": weighting, "rank": 2 if weighting == "fisher" else None}
    if kind == "double":
        model, data = model.double(), data.double()
    if kind == "dataset":
        data = TensorDataset(data, torch.zeros(N))
    if kind in ("loader", "workers"):
        workers = 2 if kind == "workers" else 0
        data = DataLoader(TensorDataset(data), batch_size=5, shuffle=True, num_workers=workers)
    if kind == "indices":
        options["indices"] = [7, 3, 22, 7]
    mask = some_of_each(model)
    expected = masked_gradients(model, data, mask, **options)
    assert_same(masked_gradients(model, data, mask, out=path, **options)[:], expected)


def test_keyword_arguments(path: Path) -> None:
    model = TextClassifier().double()
    items = [{"tokens": torch.randint(0, 30, (6,)), "labels": 1} for _ in range(7)]
    data, mask = DataLoader(items, batch_size=3), some_of_each(model)  # type: ignore[arg-type]
    expected = masked_gradients(model, data, mask)
    assert_same(masked_gradients(model, data, mask, out=path)[:], expected)


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 11, 12, 19, 20, 22])
def test_a_stopped_run_goes_on_after_its_last_whole_batch(
    model: nn.Module, mask: FisherMask, path: Path, whole: bytes, stop: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        masked_gradients(model, Pool(stop), mask, batch_size=BATCH, out=path)
    assert no_recorder() and model.training and not path.exists()
    assert part_of(path).exists() == (stop >= BATCH)
    pool = Pool()
    masked_gradients(model, pool, mask, batch_size=BATCH, out=path)
    assert path.read_bytes() == whole
    assert pool.walked == list(range(stop // BATCH * BATCH, N))
    assert not part_of(path).exists() and not record_of(path).exists()


def test_a_process_killed_at_any_moment_ends_with_the_same_bytes(path: Path) -> None:
    script = Path(killed_gradients.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 3
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    killed_gradients.write(str(path.with_name("whole")))
    torch.set_num_threads(threads)
    assert path.read_bytes() == path.with_name("whole").read_bytes()
    assert len(list(path.parent.iterdir())) == 2


def test_a_batch_size_that_was_chosen_is_kept(
    model: nn.Module, mask: FisherMask, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_fitting_size", lambda plan, device: 5)
    expected = masked_gradients(model, Pool(), mask)
    with pytest.raises(KeyboardInterrupt):
        masked_gradients(model, Pool(17), mask, out=path)
    assert json.loads(record_of(path).read_text())["samples"] == 15
    monkeypatch.setattr(walk, "_fitting_size", lambda plan, device: 7)
    sizes = []
    real = resumable.write_rows

    def watch(descriptor: int, layout: Any, start: int, factors: GradientFactors) -> None:
        sizes.append((start, len(factors)))
        real(descriptor, layout, start, factors)

    monkeypatch.setattr(resumable, "write_rows", watch)
    assert_same(masked_gradients(model, Pool(), mask, out=path)[:], expected)
    assert sizes == [(15, 5), (20, 3)]


def test_a_run_stopped_before_its_file_gets_its_name(
    model: nn.Module, mask: FisherMask, path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    pool = Pool()
    masked_gradients(model, pool, mask, batch_size=BATCH, out=path)
    assert pool.walked == [] and path.read_bytes() == whole


def test_a_whole_file_is_taken_as_it_is(
    model: nn.Module, mask: FisherMask, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = masked_gradients(model, Pool(), mask, batch_size=BATCH, out=path)
    record_of(path).write_text("left by a process that was killed")
    pool = Pool()
    with caplog.at_level(logging.INFO, "fishermask_fast"):
        again = masked_gradients(model, pool, mask, out=path)
    assert pool.walked == []
    assert_same(again[:], first[:])
    assert "holds the gradients of all 23 samples already" in caplog.text
    assert list(path.parent.iterdir()) == [path]


OTHERS = ["model", "buffer", "layer", "mask", "weighting", "rank", "indices", "samples", "data",
          "dtype", "fishermask_fast"]  # fmt: skip


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("what", OTHERS)
def test_other_gradients_are_neither_mixed_nor_overwritten(
    what: str,
    finished: bool,
    model: nn.Module,
    mask: FisherMask,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(None if finished else 14)
    if finished:
        masked_gradients(model, pool, mask, batch_size=BATCH, out=path)
    else:
        with pytest.raises(KeyboardInterrupt):
            masked_gradients(model, pool, mask, batch_size=BATCH, out=path)
    before = (path if finished else part_of(path)).read_bytes()
    options: dict[str, Any] = {}
    data: Any = Pool()
    expected = what
    if what == "model":
        with torch.no_grad():
            model[4].bias[0] += 1e-6
    elif what == "buffer":
        model[1].running_mean[2] = 0.5
        expected = "model"
    elif what == "layer":
        model[2] = nn.Tanh()
        expected = "model"
    elif what == "mask":
        mask = FisherMask.head(model)
    elif what == "weighting":
        options["weighting"], expected = "none", r"weighting \(fisher there, none here\)"
    elif what == "rank":
        options["rank"], expected = 2, r"rank \(exact there, 2 here\)"
    elif what == "indices":
        options["indices"] = [1, 0, *range(2, N)]
    elif what == "samples":
        data.samples, expected = data.samples[:-1], r"samples \(23 there, 22 here\)"
    elif what == "data":
        data.samples[0, 0, 0, 0] += 1
    elif what == "dtype":
        model, expected = model.double(), r"dtype \(float32 there, float64 here\)"
    else:
        monkeypatch.setattr(fingerprint, "__version__", "0.0.9")
        expected = r"fishermask_fast \(0.1.0 there, 0.0.9 here\)"
    name = path.name if finished else part_of(path).name
    with pytest.raises(ValueError, match=f"{name} .*other gradients.*differ in .*{expected}.*dele"):
        masked_gradients(model, data, mask, batch_size=BATCH, out=path, **options)
    assert (path if finished else part_of(path)).read_bytes() == before
    assert path.exists() == finished


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
    with pytest.raises(TypeError, match="out must be a path or None; got int"):
        masked_gradients(model, Pool(), mask, out=3)  # type: ignore[call-overload]
    with pytest.raises(FileNotFoundError, match="out must be in a folder that exists"):
        masked_gradients(model, Pool(), mask, out=tmp_path / "no" / "file")
