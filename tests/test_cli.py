"""The command line: a short run from flags to files, and one line for each mistake."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fishermask_fast
from fishermask_fast import installation, strategies
from fishermask_fast.cli import main
from fishermask_fast.loop.records import read_rounds
from fishermask_fast.options import RunOptions


def words(text: str) -> list[str]:
    return text.split()


QUICK = words(
    "run --pool-size 70 --test-size 40 --initial 10 --per-round 5 --rounds 1 "
    "--epochs 1 --min-steps 3 --fisher-samples 20"
)


def picks(folder: Path) -> list[list[int]]:
    return [entry.picks for entry in read_rounds(folder)]


def test_run_ends_in_a_table_a_record_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--seed", "3"]) == 0
    output = capsys.readouterr()
    folder = tmp_path / "runs" / "digits-cnn_small-seed3"
    rounds = list(read_rounds(folder))
    assert [entry.strategy for entry in rounds] == 2 * ["fishermask", "bait", "random"]
    for number in (0, 1):
        cells = [f"{entry.accuracy:.1%}" for entry in rounds if entry.round == number]
        row = [str(number), str(10 + 5 * number), *cells]
        assert re.search(r"^ *" + " +".join(map(re.escape, row)) + "$", output.out, re.MULTILINE)
    for entry in rounds[3:]:
        assert re.search(rf"^{entry.strategy} +10 -> 15 ", output.out, re.MULTILINE)
    assert str(folder.relative_to(tmp_path) / "rounds.jsonl") in output.out
    with Image.open(folder / "learning_curve.png") as image:
        assert image.format == "PNG"
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["schedule"]["seed"] == 3
    assert config["data"]["pool_size"] == 70
    assert output.err == ""


def test_the_seed_makes_a_run_repeatable(tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main([*QUICK, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    assert picks(tmp_path / "a") == picks(tmp_path / "b")
    assert picks(tmp_path / "a") != picks(tmp_path / "c")


def test_flags_reach_the_run(tmp_path: Path) -> None:
    flags = words(
        "--strategy bait --model mlp_small --no-augment --mask relative --no-keep-head "
        "--weighting none --lamb 2 --batch-size 9 --learning-rate 0.01 --train-batch-size 4 "
        "--target-accuracy 0.5 --device cpu --fraction 0.2"
    )
    assert main([*QUICK, *flags, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["schedule"]["strategies"] == ["bait"]
    assert config["model"] == "mlp_small"
    assert config["data"]["augment"] is False
    assert config["query"] == {
        "fraction": 0.2,
        "n_parameters": None,
        "head": None,
        "likelihood": "categorical",
        "mask": "relative",
        "keep_head": False,
        "weighting": "none",
        "preset": "published",
        "lamb": 2.0,
        "fisher_samples": 20,
        "rank": None,
        "batch_size": 9,
        "prior_precision": None,
        "criterion": "trace",
        "eval_weights": None,
        "class_weight": None,
        "rows": "all",
    }
    assert config["recipe"] == {
        "learning_rate": 0.01,
        "train_batch_size": 4,
        "target_accuracy": 0.5,
        "epochs": 1,
        "min_steps": 3,
        "warm_start": False,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data nosuch", "data must be one of digits, mnist, fashion-mnist, cifar10, svhn"),
        (
            "--data cifar10 --data-root nowhere",
            "fishermask-fast run --data cifar10 --data-root now",
        ),
        ("--model nosuch", "model must be one of cnn_small"),
        ("--model resnet18", "takes images of 3 channels"),
        ("--initial 66", "66 initial labels and 1 rounds of 5 need 71 pool samples"),
        ("--initial 1", "initial must be at least 2; got 1"),
        ("--fraction 0.001", "use fraction >= 0.0266"),
        ("--lamb -1", "lamb must be a finite number above 0; got -1.0"),
        ("--device nosuch", "device must be one of cpu"),
        ("--epochs 0", "epochs must be at least 1; got 0"),
        ("--image-size 16", "image_size is for folders of images"),
        ("--seed -1", "seed must be between 0 and 2**63 - 1; got -1"),
        ("--seed 9223372036854775808", "seed must be between 0 and 2**63 - 1; got 92233"),
        ("--device meta", "device must be one of cpu"),
        ("--learning-rate inf", "learning_rate must be a finite number above 0; got inf"),
        ("--imbalance-ratio inf", "imbalance_ratio must be a finite number of at least 1; got inf"),
        ("--strategy all random", "strategy all stands for every one, alone; got all random"),
        (
            "--model resnet18_small --train-batch-size 1",
            "the model cannot be trained on a batch (1, 1, 8, 8): Expected more than 1 value",
        ),
        ("--seed 1 1", "seeds must differ; got 1 1"),
        ("--strategy nosuch", "strategy must be one of fishermask, "),
        ("--rank 11", "rank must be at most the 10 classes; got 11"),
        ("--stop-labels 5", "stop_labels must be at least the 10 initial labels; got 5"),
        ("--class-counts 5 5 5 --imbalance-ratio 2", "give class_counts or imbalance_ratio"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*QUICK, "--out", str(out), *flags.split()]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "run --mask nosuch",
            'Invalid value "nosuch" for --mask. Choose from: "global", "per_layer"',
        ),
        ("run --rounds many", 'Invalid value for --rounds: unable to convert "many" into int'),
        ("run --class-counts", "--class-counts requires"),
        ("run --lamb", "--lamb requires an argument. (see fishermask-fast run --help)"),
        ("run --nosuch", "Unknown option: --nosuch"),
        ("run --iniital 3", "Unknown option: --iniital. Did you mean --initial?"),
        ("rum", 'Unknown command "rum". Did you mean "run"? Available commands: run, select, plot'),
        ("walk", 'Unknown command "walk"'),
        ("select -n 3", "--model is needed (see fishermask-fast select --help)"),
        ("plot", "DIR is needed (see fishermask-fast plot --help)"),
        ("", "a command is needed: run, select, import-labels, plot or info"),
    ],
)
def test_bad_flags_get_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_a_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*QUICK, "--strategy", "random", "--out", str(tmp_path / "run")]
    assert main(flags) == 0
    before = picks(tmp_path / "run")
    assert main(flags) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert picks(tmp_path / "run") == before


def test_an_interrupt_leaves_whole_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> strategies.Picks:
        raise KeyboardInterrupt

    monkeypatch.setitem(strategies.STRATEGIES, "bait", stop)
    assert main([*QUICK, "--out", str(tmp_path / "run")]) == 130
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith(f"goes on: fishermask-fast run --resume {tmp_path / 'run'}\n")
    found = [(entry.round, entry.strategy) for entry in read_rounds(tmp_path / "run")]
    assert found == [(0, "fishermask"), (0, "bait"), (0, "random"), (1, "fishermask")]
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"config.json", "rounds.jsonl", "state"}


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(QUICK) == 2
    error = capsys.readouterr().err
    assert "matplotlib" in error and "pip install 'fishermask-fast[loop]'" in error


def test_info_says_how_it_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = dict(
        re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert lines["version"] == fishermask_fast.__version__
    info = fishermask_fast.build_info()
    assert lines["instruction set"] == info.instruction_set
    assert lines["torch running"] == info.torch_running
    assert "cpu" in lines["devices"]


@pytest.mark.parametrize("missing", [None, "cyclopts"])
@pytest.mark.parametrize("command", ["--version", "info"])
def test_an_installation_tells_of_itself_without_the_packages_of_the_loop(
    command: str,
    missing: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "fishermask_fast.commands", raising=False)
        assert main(["plot", "runs"]) == 2
        assert "pip install 'fishermask-fast[loop]'" in capsys.readouterr().err
    assert main([command]) == 0
    assert fishermask_fast.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--help", "run --help", "select --help", "plot --help"])
def test_help_and_version_need_no_torch(arguments: str) -> None:
    code = (
        "import sys\n"
        "from fishermask_fast.cli import main\n"
        f"assert main({arguments.split()!r}) == main(['--version']) == 0\n"
        "loaded = {'torch', 'numpy', 'matplotlib', 'sklearn', 'torchvision'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Usage: fishermask-fast" in done.stdout
    assert done.stdout.endswith(f"{fishermask_fast.__version__}\n")


def test_help_says_every_option_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for part in dataclasses.fields(RunOptions):
        if not dataclasses.is_dataclass(part.default):
            continue
        for option in dataclasses.fields(part.default):
            known = {"name": "data", "root": "data-root", "strategies": "strategy"}
            name = known.get(option.name, option.name.replace("_", "-"))
            assert (f"--{name} " in text) == (
                option.name not in ("progress", "group", "samples")
            ), name
    assert "[default: fishermask bait random]" in text
    assert "--keep-head --no-keep-head" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == fishermask_fast.__version__


def test_the_command_line_loads_without_the_packages_of_the_loop() -> None:
    code = (
        "import sys, fishermask_fast.cli\n"
        "loaded = {'matplotlib', 'sklearn', 'torchvision', 'PIL', 'cyclopts'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_a_terminal_cannot_show_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\u56f3 \u00fc " + os.fsdecode(b"\xff")
    monkeypatch.setattr(installation, "print_info", lambda: print(name))
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["info"]) == 0
    said = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert said == name.encode(encoding, "backslashreplace").decode(encoding) + "\n"
    assert out.errors == "strict"


@pytest.mark.parametrize("place", ["a pipe that nobody reads", "/dev/full"])
def test_output_that_nobody_takes_is_one_error(place: str) -> None:
    if place == "/dev/full":
        if not Path(place).exists():
            pytest.skip("this system has no /dev/full")
        end = os.open(place, os.O_WRONLY)
    else:
        read, end = os.pipe()
        os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fishermask_fast", "--version"],
        stdout=end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(end)
    assert done.returncode == 2
    assert done.stderr.startswith("fishermask-fast: error: ") and done.stderr.count("\n") == 1
