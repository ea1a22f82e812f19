"""Nothing that is no regular file is read, or even opened: a pipe would be waited for for ever."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_special_files import SPECIAL
from torch import nn

from fishermask_fast import (
    FisherMask,
    StoredFactors,
    factors_from_embeddings,
    masked_gradients,
)
from fishermask_fast.cli import main
from fishermask_fast.datasets import read_csv
from fishermask_fast.files import open_file, read_file
from fishermask_fast.labeling.embeddings import _arrays
from fishermask_fast.labeling.weights import _read
from fishermask_fast.loop.records import read_rounds

REFUSED = "must be a file; it is a (pipe|socket)|refused by the command line|holds no rounds.jsonl"
MODEL = nn.Linear(3, 2)


def mask(path: Path) -> None:
    FisherMask.load(path)


def gradients(path: Path) -> None:
    StoredFactors(path)


def finished_gradients(path: Path) -> None:
    masked_gradients(MODEL, torch.randn(4, 3), FisherMask.head(MODEL), out=path)


def half_written_gradients(path: Path) -> None:
    path.rename(path.with_name("pool.part"))
    try:
        finished_gradients(path.with_name("pool"))
    finally:
        path.with_name("pool.part").rename(path)


def record_of_half_written_gradients(path: Path) -> None:
    path.rename(path.with_name("pool.part.json"))
    path.with_name("pool.part").write_bytes(b"begun")
    try:
        finished_gradients(path.with_name("pool"))
    finally:
        path.with_name("pool.part.json").rename(path)


def embeddings(ending: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        named = path.with_name("rows" + ending)
        path.rename(named)
        try:
            factors_from_embeddings([named], torch.full((3, 2), 0.5))
        finally:
            named.rename(path)

    return read


def rounds(path: Path) -> None:
    run = path.with_name("run")
    run.mkdir()
    path.rename(run / "rounds.jsonl")
    try:
        read_rounds(run)
    finally:
        (run / "rounds.jsonl").rename(path)


def of_a_run(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        run = path.with_name("run")
        run.mkdir()
        path.rename(run / name)
        try:
            assert main(["run", "--resume", "--out", str(run)]) == 2
        finally:
            (run / name).rename(path)
        raise ValueError("refused by the command line")

    return read


def toml(path: Path) -> None:
    assert main(["run", "--config", str(path)]) == 2
    raise ValueError("refused by the command line")


READERS: dict[str, Callable[[Path], object]] = {
    "any file": read_file,
    "descriptor": lambda path: open_file(path, os.O_RDONLY),
    "mask": mask,
    "gradients": gradients,
    "finished gradients": finished_gradients,
    "half-written gradients": half_written_gradients,
    "record of half-written gradients": record_of_half_written_gradients,
    "embeddings .npy": embeddings(".npy"),
    "embeddings .safetensors": embeddings(".safetensors"),
    "embeddings of the command line": _arrays,
    "CSV": lambda path: read_csv(path, ("path",), "path", "a path"),
    "checkpoint": _read,
    "rounds": rounds,
    "configuration of a run": of_a_run("config.json"),
    "seeds of a run": of_a_run("seeds.json"),
    "TOML": toml,
}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """Special files that Python opened; what waits for them ends with an error."""
    found: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            path = Path(str(arguments[0]))
            if path.exists() and not (path.is_file() or path.is_dir()):
                found.append(str(path))

    def waited(*args: object) -> None:
        raise TimeoutError("it waits")

    sys.addaudithook(watch)
    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    yield found
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    watching.clear()


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe"])
@pytest.mark.parametrize("reader", READERS)
def test_special_files_are_not_opened(
    reader: str, kind: str, tmp_path: Path, opened: list[str]
) -> None:
    SPECIAL[kind][0](tmp_path / "target")
    with pytest.raises(ValueError, match=REFUSED):
        READERS[reader](tmp_path / "target")
    assert opened == []
