"""``run --resume DIR``: with what DIR holds, one seed or several, and with more rounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fishermask_fast import strategies
from fishermask_fast.cli import main
from fishermask_fast.loop.records import Round, read_config, read_rounds

FLAGS = (
    "run --pool-size 70 --test-size 40 --initial 10 --per-round 5 --epochs 1 --min-steps 3 "
    "--fisher-samples 20 --model mlp_small --no-augment --lamb 2 --learning-rate 0.01"
)
QUICK = FLAGS.split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def timeless(folder: str) -> list[Round]:
    return [dataclasses.replace(entry, seconds={}) for entry in read_rounds(Path(folder))]


def stop_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the query after n of the random strategy."""
    picking, count = strategies.STRATEGIES["random"], [0]

    def stop(*given: object) -> strategies.Picks:
        count[0] += 1
        if count[0] > n:
            raise KeyboardInterrupt
        return picking(*given)  # type: ignore[arg-type]

    monkeypatch.setitem(strategies.STRATEGIES, "random", stop)


@pytest.mark.parametrize("form", ["--resume part", "--resume --out part"])
def test_a_run_goes_on_by_its_folder_alone(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*QUICK, "--rounds", "3", "--strategy", "random", "margin"]
    assert main([*flags, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert main([*flags, "--out", "part"]) == 130
    assert "this goes on: fishermask-fast run --resume part\n" in capsys.readouterr().err
    assert len(timeless("part")) < len(timeless("whole"))
    assert main(["run", *form.split()]) == 0
    assert timeless("part") == timeless("whole")
    assert read_config("part") == read_config("whole")


def test_more_rounds_of_a_run_that_was_whole() -> None:
    flags = [*QUICK, "--strategy", "margin", "entropy"]
    assert main([*flags, "--rounds", "3", "--out", "whole"]) == 0
    assert main([*flags, "--rounds", "1", "--out", "part"]) == 0
    assert main(["run", "--resume", "part", "--rounds", "3"]) == 0
    assert timeless("part") == timeless("whole")
    assert read_config("part") == read_config("whole")
    assert main(["run", "--resume", "part"]) == 0
    assert timeless("part") == timeless("whole")


def test_several_seeds_also_those_that_had_no_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*QUICK, "--rounds", "2", "--strategy", "random", "--seed", "4", "1", "7"]
    assert main([*flags, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert main([*flags, "--out", "part"]) == 130
    assert "this goes on: fishermask-fast run --resume part\n" in capsys.readouterr().err
    assert not Path("part/seed7").exists()
    assert main(["run", "--resume", "part"]) == 0
    for seed in (4, 1, 7):
        assert timeless(f"part/seed{seed}") == timeless(f"whole/seed{seed}")


def test_a_files_variants_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file.toml").write_text(
        'strategy = ["random", "narrow"]\n[variants.narrow]\nstrategy = "fishermask"\nlamb = 3\n'
    )
    flags = [*QUICK[:1], "file.toml", *QUICK[1:], "--rounds", "1"]
    assert main([*flags, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_after(0, patch)
        assert main([*flags, "--out", "part"]) == 130
    assert main(["run", "--resume", "part"]) == 0
    assert timeless("part") == timeless("whole")


@pytest.mark.parametrize("content", ["nothing", "no folder", "other files", "no seed"])
def test_a_folder_without_a_run_is_refused(
    content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content != "no folder":
        Path("dir").mkdir()
    if content == "other files":
        Path("dir/notes.txt").write_text("mine")
    if content == "no seed":
        Path("dir/seed0").mkdir()
    before = sorted(Path(".").rglob("*"))
    for form in (["--resume", "dir"], ["--resume", "--out", "dir"]):
        assert main(["run", *form]) == 2
        error = capsys.readouterr().err
        assert "dir holds no run to go on with" in error and error.count("\n") == 1
    assert sorted(Path(".").rglob("*")) == before


def test_what_is_given_must_be_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--rounds", "2", "--strategy", "random", "--out", "part"]) == 0
    for flags, message in (
        (["--lamb", "3"], "has query.lamb = 2.0; this one asks for 3.0"),
        (["--rounds", "1"], "has schedule.rounds = 2; this one asks for 1"),
        (["--seed", "1"], "has data.seed = 0; this one asks for 1"),
    ):
        assert main(["run", "--resume", "part", *flags]) == 2
        assert message in capsys.readouterr().err
