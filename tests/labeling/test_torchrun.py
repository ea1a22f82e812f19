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


def torchrun(n: int, *flags: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    return subprocess.run(
        [*start, "-m", "fishermask_fast", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
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
    done = torchrun(2, *flags, "--out", "two")
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
    # What the query takes is said once, by the first process's part.
    assert done.stderr.count("about ") <= 1


def test_a_process_without_an_image_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has the only image that can be read, with the mask that was for one process."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_image(Path("new") / f"{number}.png", number)
    Path("new/0.png").write_bytes(b"no image")
    write_image(Path("old/cat/1.png"), 7)
    torch.save(build_model("cnn_small", 2, (3, 12, 12), seed=1).state_dict(), "net.pt")
    flags = [*FLAGS.split()[:-1], "1", "--mask", "middle", "--classes", "cat", "dog"]
    assert main([*flags, "--out", "one"]) == 0
    done = torchrun(2, *flags, "--out", "two")
    assert done.returncode == 0, done.stderr
    one, two = (rows(Path(folder, "picks.csv")) for folder in ("one", "two"))
    assert [row["path"] for row in one] == [row["path"] for row in two] == ["new/1.png"]
    assert "new/0.png" in Path("two/skipped.csv").read_text()


def test_what_one_process_cannot_read_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell of the second process's rows: both say its line, and neither waits for the other."""
    monkeypatch.chdir(tmp_path)
    cells = [f"{i},{i * i}" for i in range(10)]
    cells[8] = "8,much"
    Path("t.csv").write_text("\n".join(["a,b", *cells]) + "\n")
    torch.save(build_model("mlp_small", 2, (2,), seed=1).state_dict(), "net.pt")
    flags = "select --csv t.csv --model mlp_small --checkpoint net.pt -n 2 --fisher-samples 4"
    done = torchrun(2, *flags.split())
    assert done.returncode != 0
    said = "fishermask-fast: error: rank 1: t.csv, line 10: b must be a finite number"
    assert done.stderr.count(said) == 2
    assert not Path("picks").exists()


def test_a_folder_that_is_there_ends_each_process_before_it_meets_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("picks", "new", "old"):
        Path(folder).mkdir()
    Path("net.pt").touch()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(FLAGS.split()) == 2
        assert "picks exists already" in capsys.readouterr().err
