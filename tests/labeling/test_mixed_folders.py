"""A folder of files of all kinds: each is read, or listed with a reason; none is passed over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mixed_files import CONVERTED, FILES, SKIPPED, write

from fishermask_fast.cli import main
from fishermask_fast.labeling.csv_files import read_csv
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
    skipped, converted = ({path for path, _ in some} for some in notes.values())
    assert {Path(path) for path in picks.column("path")} == {
        path for path, what in mixed.expected.items() if what != SKIPPED
    }
    for path, what in mixed.expected.items():
        above = [path, *path.parents]
        assert (what == SKIPPED) == any(each in skipped for each in above), path
        assert (what == CONVERTED) == (path in converted), path
    # Nothing is listed that is not there, a link that is followed beside the images below it.
    assert skipped <= set(mixed.expected) | {Path("all/new/.ipynb_checkpoints")}
    assert converted - set(mixed.expected) == {Path("all/new/linked folder")}
    for name, some in notes.items():
        assert all(reason for _, reason in some)
        assert re.search(rf"^{name} +{len(some):,}, listed in", said.out, re.MULTILINE)
