"""What a person is told: help, words that are nearly right, errors, time, steps."""

from __future__ import annotations

import logging
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from fishermask_fast import installation, progress
from fishermask_fast.cli import main
from fishermask_fast.commands import parse
from fishermask_fast.loop.records import read_rounds
from fishermask_fast.loop.run import experiment
from fishermask_fast.options import SENTENCES, STRATEGIES, QueryOptions
from fishermask_fast.options.told import EXAMPLES
from fishermask_fast.strategies import Forecast, announce, estimated

READ = ("--unlabeled", "--labeled", "--csv", "--embeddings", "--checkpoint", "--pool")
TINY = shlex.split(
    "run --pool-size 90 --test-size 40 --initial 10 --per-round 5 --rounds 2 --epochs 1 "
    "--min-steps 3 --fisher-samples 20 --strategy fishermask random"
)


def plain(text: str) -> str:
    """Help without its frames and line breaks."""
    return " ".join(text.replace("\u2502", " ").replace("\u2022", " ").split())


def test_each_strategy_has_its_sentence() -> None:
    assert tuple(SENTENCES) == STRATEGIES


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_has_examples_and_the_strategies(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    said = plain(capsys.readouterr().out)
    for line in EXAMPLES[command]:
        assert line in said
    for name, sentence in SENTENCES.items():
        assert (f"{name}: {sentence}" in said) == (command in ("run", "select"))
    assert "--traceback" in said and "--verbose" in said


@pytest.mark.parametrize("line", [each for lines in EXAMPLES.values() for each in lines])
def test_examples_are_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiment.toml").write_text("rounds = 1\n")
    program, *given = shlex.split(line)
    assert program == "fishermask-fast"
    for flag, value in pairwise(given):
        if flag in READ:
            Path(value).parent.mkdir(exist_ok=True)
            Path(value).touch()
    if "--resume" in given:
        with pytest.raises(ValueError, match="out"):
            parse(given)
    else:
        parse(given)


@pytest.mark.parametrize(
    ("line", "close"),
    [
        ("run --strategy bate", "bait"),
        ("run --data digts", "digits"),
        ("run --per-rond 3", "--per-round"),
        ("run --mask hed", "head"),
        ("run --device cpuu", "cpu"),
        ("run --model cnn_smal", "cnn_small"),
        ("run file.toml", "per-round"),
        ("run variant.toml", "fisher-samples"),
        ("run choice.toml", "stratified"),
        ("selct -n 3", "select"),
        ("select -n 3 --model m --csv t.csv --strategy fishermsk", "fishermask"),
        ("select -n 3 --model m --csv t.csv --label-column lable", "label"),
        ("select -n 1 --model resnt18 --checkpoint n.pt --unlabeled new", "resnet18"),
        ("plot runs --basline random", "--baseline"),
    ],
)
def test_words_that_are_nearly_right_are_guessed(
    line: str,
    close: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.toml").write_text("per-rund = 3\n")
    Path("variant.toml").write_text('[variants.a]\nstrategy = "bait"\nfisher-sample = 3\n')
    Path("choice.toml").write_text('initial-draw = "stratifed"\n')
    Path("t.csv").write_text("x,label\n1,a\n2,\n3,\n4,\n")
    Path("n.pt").write_bytes(b"")
    Path("new").mkdir()
    Image.new("RGB", (4, 4)).save("new/1.png")
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert "did you mean" in said.lower() and close in said.lower().split("did you mean")[1]
    assert said.count("\n") == 1


ERRORS = [
    RuntimeError("CUDA error\nCompile with more"),
    IndexError("index out of range in self"),
    KeyError("weight"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    RecursionError("too deep"),
    MemoryError(),
    NotImplementedError("this op"),
    ValueError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("flag", ["", "--traceback", "--verbose"])
def test_errors_of_any_kind_are_one_line(
    error: Exception, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(installation, "print_info", fail)
    assert main(["info", *([flag] if flag else [])]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("fishermask-fast: error: ") and len(lines[-1]) > 28
    if flag:
        assert lines[0] == "Traceback (most recent call last):"
        assert any("in fail" in line for line in lines)
    else:
        assert len(lines) == 1
        assert isinstance(error, (ValueError, OSError)) or "--traceback shows where" in lines[0]


def picks(folder: str) -> list[list[int]]:
    return [entry.picks for entry in read_rounds(Path(folder))]


def test_a_run_says_what_a_long_query_takes_and_picks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--out", "short"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(experiment, "WORTH_SAYING", 0.0)
    assert main([*TINY, "--out", "long"]) == 0
    said = capsys.readouterr().err
    # Once, as later queries take as long; random takes no time that could be told.
    assert said.count("a query by fishermask: about ") == 1 == said.count("\n")
    monkeypatch.setattr(experiment, "estimated", lambda *_, **__: None)
    assert main([*TINY, "--out", "never"]) == 0
    assert picks("short") == picks("long") == picks("never")


def test_verbose_says_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG, "fishermask_fast"):
        assert main([*TINY, "--out", "run", "--verbose"]) == 0
    said = [record.getMessage() for record in caplog.records]
    for number in (1, 2):
        for name in ("fishermask", "random"):
            n = 90 - 10 - 5 * (number - 1)
            assert f"round {number} of {name}: picking 5 of {n}" in said
    assert sum("trained on" in line for line in said) == 5


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_says_what_its_query_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    pool, labeled, few = (TensorDataset(torch.rand(n, 6)) for n in (90, 10, 5))
    told = estimated(name, model, pool, labeled, 4, 0, QueryOptions())
    if name == "random":
        assert told is None
        return
    assert told is not None and min(told.seconds.values()) > 0
    announce(told, QueryOptions())
    assert re.match(r"about \d+ s \(\w+ \d+ s", capsys.readouterr().err)
    # So few are picked from before their time is known.
    assert estimated(name, model, few, labeled, 4, 0, QueryOptions()) is None
    assert estimated(name, model, few, labeled, 4, 0, QueryOptions(), always=True) is not None


def test_of_a_long_query_it_is_said_what_makes_it_shorter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, pool = nn.Linear(6, 3), TensorDataset(torch.rand(90, 6))
    told = estimated("fishermask", model, pool, pool, 4, 0, QueryOptions())
    assert told is not None
    long = Forecast({"mask": 3000.0, "gradients": 600.0}, told.need)
    announce(long, QueryOptions())
    assert "--device cuda" in (said := capsys.readouterr().err) and "--image-size" not in said
    announce(long, QueryOptions(), resized=True)
    said = capsys.readouterr().err
    assert said.startswith("about 60 min (mask 50 min, gradients 10 min), then the selection\n")
    for way in ("--fisher-samples 128: about 16 min", "--mask head", "--rank 1", "--image-size"):
        assert way in said
    announce(Forecast({"predictions": 3600.0}), QueryOptions(), resized=True)
    said = capsys.readouterr().err
    assert said.startswith("about 60 min (predictions 60 min)\n") and "--image-size" in said
    assert "--rank" not in said and "--mask" not in said
    announce(Forecast({"mask": 30.0}, told.need), QueryOptions())
    assert "shorter" not in capsys.readouterr().err


def test_without_a_terminal_long_work_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a minute of each step of ``run``; here a line each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for number in range(40):
        path = Path("photos") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * number).save(path)
    flags = "--data photos --image-size 8 --model cnn_small --strategy fishermask margin"
    tiny = "--initial 4 --per-round 2 --rounds 1 --epochs 1 --min-steps 2 --fisher-samples 9"
    assert main(["run", *flags.split(), *tiny.split(), "--out", "run"]) == 0
    said = capsys.readouterr().err
    steps = "reading the pool", "reading the test set", "training", "testing"
    for step in (*steps, "gradients", "selection", "predictions"):
        assert re.search(rf"^{step}: \d+ of \d+ [a-z ]+ after \d+ s, about \d+ s left$", said, re.M)
