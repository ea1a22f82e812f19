"""Tables of people's own for ``run``: categories, missing numbers, label columns, three formats."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from fishermask_fast.cli import main
from fishermask_fast.datasets import load_data
from fishermask_fast.loop.records import read_rounds
from fishermask_fast.options import DataOptions

N = 24


def record(i: int) -> dict[str, Any]:
    colour = ("red", "blue", "")[i % 3]
    return {"size": None if i % 4 == 3 else i / 2, "colour": colour, "kind": "xy"[i % 2]}


def write(ending: str, folder: Path) -> Path:
    path = folder / f"data{ending}"
    records = [record(i) for i in range(N)]
    if ending == ".csv":
        cells = [["" if v is None else str(v) for v in r.values()] for r in records]
        path.write_text("\n".join(",".join(row) for row in [list(records[0]), *cells]) + "\n")
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    else:
        pytest.importorskip("pyarrow")
        pytest.importorskip("pandas").DataFrame(records).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_categories_and_missing_numbers_become_columns_and_are_said(
    ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(ending, tmp_path)
    with caplog.at_level(logging.WARNING):
        data = load_data(DataOptions(str(path), label_column="kind"))
    # The number, where it is missing, and a column for "", blue and red.
    assert data.shape == (5,) and data.classes == ("x", "y")
    assert "missing  numbers of" in caplog.text and "size (6)" in caplog.text
    assert "categories  columns of" in caplog.text and "colour" in caplog.text
    size, gone = data.pool.source[:, 0], data.pool.source[:, 1]  # type: ignore[index]
    # Missing ones are the mean of the others, which the known ones of the pool have as theirs.
    where = gone > 0
    assert torch.allclose(size[where], torch.zeros(int(where.sum())), atol=1e-6)
    assert len({tuple(row) for row in data.pool.source[:, 2:].tolist()}) == 3  # type: ignore[index]


def test_a_run_of_ones_own_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(".csv", tmp_path)
    tiny = "--initial 4 --per-round 2 --rounds 1 --epochs 1 --min-steps 2 --strategy margin"
    flags = ["--data", path.name, "--label-column", "kind", *tiny.split(), "--out", "run"]
    assert main(["run", *flags]) == 0
    assert [entry.n_labeled for entry in read_rounds(Path("run"))] == [4, 6]
    assert main(["run", "--resume", "run", "--rounds", "2"]) == 0
    assert [entry.n_labeled for entry in read_rounds(Path("run"))] == [4, 6, 8]
    assert main(["run", "--data", path.name, *tiny.split()]) == 2
    assert "must have a column label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "label": "x"}\n{"a": 2, "label": "y"', "line 2 is no JSON"),
        ('{"a": 1, "label": "x"}\n[1]\n', "line 2 must be an object"),
        ('{"a": [1], "label": "x"}\n', "line 1: a must be a text or a number; got list"),
    ],
)
def test_lines_of_json_that_are_none_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(DataOptions(str(tmp_path / "data.jsonl")))


def test_a_text_of_its_own_for_each_row_is_no_category(tmp_path: Path) -> None:
    rows = "".join(f"{i},name {i},{'xy'[i % 2]}\n" for i in range(150))
    (tmp_path / "data.csv").write_text(f"a,who,label\n{rows}")
    with pytest.raises(ValueError, match="column who holds 150 different texts, such as 'name 0'"):
        load_data(DataOptions(str(tmp_path / "data.csv")))
