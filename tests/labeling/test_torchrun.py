"""``select`` on several processes: each reads its part, all pick together, one writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_select import rows, write_image

from fishermask_fast.cli import main
from fishermask_fast.models import build_model

FLAGS = (
    "select --unlabeled new --labeled old --model cnn_small --checkpoint net.pt --image-size 12 "
    "--fisher-samples 8 -n 5"
)


@pytest.mark.parametrize("strategy", ["fishermask", "fishermask_entropy", "coreset"])
def test_two_processes_pick_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        write_image(Path("new") / f"{number:02}.png", number)
    write_image(Path("new") / "zz.png", 40)
    Path("new/03.png").write_bytes(Path("new/03.png").read_bytes()[:60])
    for number in range(3):
        write_image(Path("old") / ("cat", "dog")[number % 2] / f"{number}.png", 100 + number)
    torch.save(build_model("cnn_small", 2, (3, 12, 12), seed=1).state_dict(), "net.pt")
    flags = [*FLAGS.split(), "--strategy", strategy]
    assert main([*flags, "--out", "one"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [
            *torchrun,
            "-m",
            "fishermask_fast",
            *FLAGS.split(),
            "--strategy",
            strategy,
            "--out",
            "two",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    one, two = (rows(Path(folder, "picks.csv")) for folder in ("one", "two"))
    assert [row["path"] for row in one] == [row["path"] for row in two]
    for first, second in zip(one, two, strict=True):
        assert float(first["score"]) == pytest.approx(float(second["score"]), rel=1e-4)
    names = [sorted(path.name for path in Path(folder).iterdir()) for folder in ("one", "two")]
    assert names[0] == names[1]
    assert Path("one/skipped.csv").read_text() == Path("two/skipped.csv").read_text()
    assert done.stdout.count("picks.csv") == 1
    assert done.stdout.count("11 unlabeled images and 3 labeled ones") == 1
