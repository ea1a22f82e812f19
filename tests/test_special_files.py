"""Nothing that is no regular file is replaced by what is written: not a pipe, socket, or folder."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fishermask_fast import FisherMask, GradientFactors, masked_gradients
from fishermask_fast.datasets import write_csv
from fishermask_fast.factors import save_factors
from fishermask_fast.files import (
    check_replaceable,
    folder_written_whole,
    replace_file,
    written_whole,
)
from fishermask_fast.loop.records import RunFolder
from fishermask_fast.options import record_seeds
from fishermask_fast.plotting import figure_to


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    # Its address is at most 108 bytes long, and tmp_path may be longer.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def folder(path: Path) -> None:
    path.mkdir()


def link_to(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        make(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))

    return link


# What stands at the path, and what messages call it.
SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (pipe, "a pipe"),
    "socket": (a_socket, "a socket"),
    "folder": (folder, "a folder"),
    "link to a pipe": (link_to(pipe), "a link to a pipe"),
    "link to a socket": (link_to(a_socket), "a link to a socket"),
    "link to a folder": (link_to(folder), "a link to a folder"),
}


def save_mask(path: Path) -> None:
    FisherMask.head(nn.Linear(3, 2)).save(path)


def save_gradients(path: Path) -> None:
    save_factors(GradientFactors(torch.randn(3, 2, 5)), path)


def gradients_into(path: Path) -> None:
    model = nn.Linear(3, 2)
    masked_gradients(model, torch.randn(4, 3), FisherMask.head(model), out=path)


def csv(path: Path) -> None:
    write_csv(path, ["a"], [["b"]])


def draw(path: Path) -> None:
    pictured = path.with_name("drawn")
    path.rename(pictured.with_name("drawn.png"))
    try:
        with figure_to(pictured, (1, 1)) as figure:
            figure.add_subplot()
    finally:
        pictured.with_name("drawn.png").rename(path)


def configuration(path: Path) -> None:
    path.with_name("run").mkdir()
    os.rename(path, path.with_name("run") / "config.json")
    try:
        RunFolder(path.with_name("run"), {"schedule": {}}, resume=True)
    finally:
        os.rename(path.with_name("run") / "config.json", path)


def rounds(path: Path) -> None:
    run = path.with_name("run")
    RunFolder(run, {"schedule": {}}).close()
    run.mkdir(exist_ok=True)
    (run / "config.json").unlink(missing_ok=True)
    os.rename(path, run / "rounds.jsonl")
    try:
        RunFolder(run, {"schedule": {}}, resume=True)
    finally:
        os.rename(run / "rounds.jsonl", path)


def state(path: Path) -> None:
    run = path.with_name("run")
    kept = RunFolder(run, {"schedule": {}})
    (run / "state").mkdir()
    os.rename(path, run / "state" / "random-0.pt")
    try:
        kept.save_state("random", 0, b"")
    finally:
        os.rename(run / "state" / "random-0.pt", path)
        kept.close()


def seeds(path: Path) -> None:
    run = path.with_name("run")
    run.mkdir()
    os.rename(path, run / "seeds.json")
    try:
        record_seeds(run, (0, 1))
    finally:
        os.rename(run / "seeds.json", path)


def plain(path: Path) -> None:
    replace_file(path, b"after")


def whole_folder(path: Path) -> None:
    with folder_written_whole(path):
        pytest.fail("no work is done first")


WRITERS = (
    plain, whole_folder, save_mask, save_gradients, gradients_into, csv, draw, configuration,
    rounds, state, seeds,
)  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("write", WRITERS)
def test_special_files_stay(write: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "target"
    make, _ = SPECIAL[kind]
    make(path)
    before = stat.S_IFMT(path.lstat().st_mode), stat.S_IFMT(path.stat().st_mode)
    with pytest.raises((ValueError, FileExistsError)):
        write(path)
    assert (stat.S_IFMT(path.lstat().st_mode), stat.S_IFMT(path.stat().st_mode)) == before
    assert not list(tmp_path.glob("**/*.part"))


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("write", [plain, save_mask, save_gradients, csv])
def test_what_stands_there_is_named(
    write: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    make, name = SPECIAL[kind]
    make(tmp_path / "target")
    # Folders are told by their argument's own check where there is one.
    known = f"target must be a file or not there; it is {name}$|must be the path of a file; got"
    with pytest.raises(ValueError, match=known):
        write(tmp_path / "target")


def test_what_comes_to_stand_there_while_a_file_is_written_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a pipe"), written_whole(tmp_path / "target"):
        pipe(tmp_path / "target")
    assert stat.S_ISFIFO((tmp_path / "target").lstat().st_mode)
    assert [each.name for each in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("there", ["nothing", "file", "link to a file", "link to nothing"])
def test_files_and_links_to_them_are_replaced(there: str, tmp_path: Path) -> None:
    path, other = tmp_path / "target", tmp_path / "other"
    if there == "file":
        path.write_bytes(b"before")
    elif there != "nothing":
        path.symlink_to(other)
    if there == "link to a file":
        other.write_bytes(b"other")
    check_replaceable(path)
    plain(path)
    assert path.read_bytes() == b"after" and not path.is_symlink()
    assert other.exists() is (there == "link to a file")
