"""A folder of files of all kinds: each is read, or listed with a reason; none is passed over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mixed_files import CONVERTED, FILES, SKIPPED, write

from fishermask_fast.cli import main
from fishermask_fast.datasets.csv_files import read_csv
from fishermask_fast.models import build_model


def listed(path: Path) -> list[tuple[Path, str]]:
    """Each path with a reason."""
    table = read_csv(path, ("path", "reason"), "path", "a column path")
    return [(Path(p), r) for p, r in zip(table.column("path"), table.column("reason"), strict=True)]


@pytest.mark.parametrize("n", [60, pytest.param(500, marks=pytest.mark.tools)])
def test_every_file_is_accounted_for(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed = write(Path("all/new"), Path("elsewhere"), n)
    assert len(mixed.expected) == n >= len(FILES)
    torch.save(build_model("cnn_small", 3, (3, 16, 16), seed=1).state_dict(), "net.pt")
    net = ["--model", "cnn_small", "--checkpoint", "net.pt", "--image-size", "16"]
    count = str(mixed.n_images)
    flags = ["--unlabeled", "all/new", *net, "-n", count, "--strategy", "margin"]
    assert main(["select", *flags]) == 0
    said = capsys.readouterr()
    picks = read_csv(Path("picks/picks.csv"), ("path",), "path", "a column path")
    notes = {name: listed(Path(f"picks/{name}.csv")) for name in ("skipped", "converted")}
    check(mixed.expected, notes, Path("all/new"))
    assert {Path(path) for path in picks.column("path")} == {
        path for path, what in mixed.expected.items() if what != SKIPPED
    }
    for name, some in notes.items():
        assert re.search(rf"^{name} +{len(some):,}, listed in", said.out, re.MULTILINE)


def check(
    expected: dict[Path, str], notes: dict[str, list[tuple[Path, str]]], *folders: Path
) -> None:
    """Each file is in the pool, or listed with a reason; and nothing else is listed."""
    skipped, converted = ({path for path, _ in some} for some in notes.values())
    for path, what in expected.items():
        above = [path, *path.parents]
        assert (what == SKIPPED) == any(each in skipped for each in above), path
        assert (what == CONVERTED) == (path in converted), path
    # A hidden folder, and a link that is followed, stand for what lies below them.
    assert skipped <= set(expected) | {folder / ".ipynb_checkpoints" for folder in folders}
    assert converted - set(expected) == {folder / "linked folder" for folder in folders}
    assert all(reason for some in notes.values() for _, reason in some)


def test_run_accounts_for_every_file_of_its_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    expected: dict[Path, str] = {}
    for name in ("cat", "dog"):
        expected |= write(Path("all", name), Path("elsewhere", name), 60).expected
    n_images = sum(what != SKIPPED for what in expected.values())
    Path("all/loose.png").write_bytes(b"")
    Path("all/empty").mkdir()
    flags = "--data all --image-size 8 --model cnn_small --strategy random --initial 4 --out run"
    tiny = "--per-round 2 --rounds 1 --epochs 1 --min-steps 2"
    assert main(["run", *flags.split(), *tiny.split()]) == 0
    said = capsys.readouterr()
    sizes = re.search(r"(\d+) samples to label from, (\d+) to test on", said.out)
    assert sizes is not None and int(sizes[1]) + int(sizes[2]) == n_images
    notes = {name: listed(Path(f"run/{name}.csv")) for name in ("skipped", "converted")}
    for name, some in notes.items():
        assert f"{name:<9}{len(some)}, listed in run/{name}.csv" in said.out
    expected |= {Path("all/loose.png"): SKIPPED, Path("all/empty"): SKIPPED}
    check(expected, notes, Path("all/cat"), Path("all/dog"))
