"""The tutorial and the notebook run from beginning to end as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import drawings
import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "embeddings.ipynb"
PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
PART = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def alike(text: str) -> str:
    """The text without the numbers and names that another machine's rounding may change."""
    return re.sub(r"\d+", "0", re.sub(r"'\w+'", "''", text)).strip()


def test_the_tutorial_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawings.make(tmp_path / "photos")
    parts = PART.findall(PAGE.read_text())
    assert len(parts) == PAGE.read_text().count("```python")
    names: dict[str, object] = {"__name__": "tutorial"}
    for code, expected in parts:
        exec(compile(code, "tutorial", "exec"), names)
        assert alike(capsys.readouterr().out) == alike(expected)
    assert (tmp_path / "picks.png").exists()


def test_the_notebook_runs_and_draws(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = pictures(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert pictures(notebook) == shown == 4


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return sum("image/png" in output.get("data", {}) for output in outputs)
