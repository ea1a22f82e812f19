"""``--dry-run``, ``--inspect`` and ``--label-column``: what is said before anything is picked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_select import rows

from fishermask_fast.cli import main
from fishermask_fast.models import build_model

LABELS = [*"xy\u00fcxy\u00fc", *[""] * 74]
TABLE = "a,b,{}\n" + "".join(f"{i / 7},{i % 3},{label}\n" for i, label in enumerate(LABELS))
NET = ["--model", "mlp_small", "--checkpoint", "net.pt", "--fisher-samples", "8", "-n", "2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(build_model("mlp_small", 3, (2,), seed=1).state_dict(), "net.pt")
    Path("t.csv").write_text(TABLE.format("label"), encoding="utf-8")
    return tmp_path


def select(*flags: str) -> int:
    return main(["select", "--csv", "t.csv", *NET, *flags])


@pytest.mark.parametrize("strategy", ["fishermask", "bait", "margin"])
def test_a_dry_run_says_what_a_query_needs_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    before = sorted(here.iterdir())
    assert select("--dry-run", "--strategy", strategy) == 0
    said = capsys.readouterr()
    assert f"2 picks by {strategy} with mlp_small" in said.out
    assert "74 unlabeled rows and 6 labeled ones" in said.out and "nothing was written" in said.out
    assert ("one pass over the pool" in said.out) == (strategy == "margin")
    assert ("masked parameters" in said.out) == (strategy != "margin")
    assert said.err.startswith("about ")
    assert ("predictions" in said.err) == (strategy == "margin")
    assert sorted(here.iterdir()) == before


def test_inspect_says_what_the_model_is_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert select("--inspect") == 0
    said = capsys.readouterr().out
    assert "4,544 trainable" in said and "head" in said
    assert sorted(here.iterdir()) == before
    assert select("--inspect", "--dry-run") == 2
    assert "--dry-run or --inspect, not both" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["folder", "file", "link to nothing"])
def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(
    there: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if there == "folder":
        Path("new").mkdir()
    elif there == "file":
        Path("new").write_text("")
    else:
        Path("new").symlink_to("nothing")
    assert select("--out", "new") == 2
    said = capsys.readouterr()
    assert "new exists already" in said.err or "new is a file" in said.err
    assert select("--out", "new", "--dry-run") == 2
    assert capsys.readouterr() == said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_label_column_by_any_name(here: Path, encoding: str) -> None:
    assert select("--out", "one") == 0
    Path("t.csv").write_text(TABLE.format("Art \u00fc"), encoding=encoding)
    assert select("--label-column", "Art \u00fc", "--out", "two") == 0
    first, second = (rows(Path(name, "picks.csv")) for name in ("one", "two"))
    assert first == second and {row["predicted"] for row in first} <= {"x", "y", "\u00fc"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("lable", "did you mean"),
        ("nothing alike", "which has a, b, label; got 'nothing alike'"),
    ],
)
def test_a_missing_label_column_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], column: str, message: str
) -> None:
    assert select("--label-column", column) == 2
    said = capsys.readouterr().err
    assert message in said and "t.csv" in said and said.count("\n") == 1
    assert not Path("picks").exists()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_refused_by_name(
    here: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    Path("t.csv").write_text(TABLE.format("label"), encoding=encoding)
    assert select() == 2
    said = capsys.readouterr().err
    assert "t.csv" in said and "UTF-8" in said.upper() and said.count("\n") == 1
