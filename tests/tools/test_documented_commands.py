"""The commands of the README and of docs/, page by page, in a folder with what the page asks for.

Word for word, but for flags behind them that make networks and pools small.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import drawings
import pytest
import torch
from documented import PAGES, ROOT, commands

from fishermask_fast.cli import main
from fishermask_fast.datasets.csv_files import write_csv
from fishermask_fast.models import build_model

pytestmark = pytest.mark.tools
SMALL = {
    "select": "--image-size 32 --fisher-samples 8 --n-parameters 1100",
    "run": "--epochs 1 --min-steps 3 --fisher-samples 20 --test-size 30",
}
ELSEWHERE = ("fashion-mnist", "FOLDER")
"""Data that is downloaded, or one's own; that these are parsed another test sees."""


@pytest.mark.parametrize("page", ["README.md", "docs/loop.md"])
def test_the_commands_of_a_page_run_one_after_another(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawings.make(tmp_path / "photos")
    names = sorted(path.name for path in Path("photos").iterdir())[:2]
    Path("new").mkdir()
    rows = []
    for name in names:
        Path("old", name).mkdir(parents=True)
        for number, path in enumerate(sorted(Path("photos", name).iterdir())):
            known = number < 3
            place = Path("old", name, path.name) if known else Path("new", f"{name}{path.name}")
            path.rename(place)
            rows.append((place, name if known else ""))
    write_csv(Path("images.csv"), ["path", "label"], rows)
    torch.save(build_model("resnet18", len(names), (3, 32, 32)).state_dict(), "net.pt")
    text = (ROOT / page).read_text()
    for content in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        Path("file.toml").write_text(content)
    done: list[str] = []
    for argv in commands(text):
        if any(each in argv for each in ELSEWHERE) or (argv[0] == "plot" and "run" not in done):
            continue
        small = [] if "--resume" in argv else SMALL.get(argv[0], "").split()
        assert main([*argv, *small]) == 0, argv
        done.append(argv[0])
    assert len(done) == {"README.md": 1, "docs/loop.md": 7}[page]


def test_the_processes_of_the_page_on_scale(tmp_path: Path) -> None:
    page = (ROOT / "docs/scale.md").read_text()
    parts = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    assert len(parts) == 2
    script = tmp_path / "query.py"
    script.write_text("".join(parts) + "print(selection.indices.tolist())\ndist.barrier()\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(said) == 2 and said[0] == said[1]


def test_all_pages_are_looked_at() -> None:
    assert sum(len(commands(page.read_text())) for page in PAGES) >= 15
