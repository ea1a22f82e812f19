"""Masked gradients into a file: the same numbers, and the same bytes wherever it was stopped."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_gradients
import pytest
import torch
from networks import TextClassifier, some_of_each
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
    no_recorder,
    part_of,
    record_of,
)
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fishermask_fast import (
    FisherMask,
    GradientFactors,
    StoredFactors,
    __version__,
    masked_gradients,
)
from fishermask_fast.gradients import fingerprint, passes, resumable


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
    monkeypatch.setattr(passes, "_fitting_size", lambda plan, device: 5)
    expected = masked_gradients(model, Pool(), mask)
    with pytest.raises(KeyboardInterrupt):
        masked_gradients(model, Pool(17), mask, out=path)
    assert json.loads(record_of(path).read_text())["samples"] == 15
    monkeypatch.setattr(passes, "_fitting_size", lambda plan, device: 7)
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
        expected = rf"fishermask_fast \({re.escape(__version__)} there, 0.0.9 here\)"
    name = path.name if finished else part_of(path).name
    with pytest.raises(ValueError, match=f"{name} .*other gradients.*differ in .*{expected}.*dele"):
        masked_gradients(model, data, mask, batch_size=BATCH, out=path, **options)
    assert (path if finished else part_of(path)).read_bytes() == before
    assert path.exists() == finished
