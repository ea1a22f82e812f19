"""TOML files, several seeds, variants, and runs that go on, all by the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fishermask_fast.cli import main
from fishermask_fast.commands import parse
from fishermask_fast.datasets import images
from fishermask_fast.datasets.samples import LabeledSamples, PoolAndTest
from fishermask_fast.loop.records import Round, read_config, read_rounds
from fishermask_fast.loop.runner import make_experiment

SMALL = """
data = "digits"
pool-size = 60
test-size = 40
initial = 10
per-round = 5
rounds = 2
epochs = 1
min-steps = 3
fisher-samples = 20
"""
EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"


def write(path: Path, text: str) -> str:
    path.write_text(SMALL + text)
    return str(path)


def of(folder: Path, strategy: str) -> list[Round]:
    return [entry for entry in read_rounds(folder) if entry.strategy == strategy]


def test_a_file_is_the_flags_and_flags_override_it(tmp_path: Path) -> None:
    text = 'strategy = ["random"]\nno-augment = true\nwarm-start = true\nlamb = 2\n'
    file = write(tmp_path / "a.toml", text)
    assert main(["run", file, "--rounds", "1", "--out", str(tmp_path / "file")]) == 0
    flags = [f"--{line.replace(' = ', '=')}" for line in SMALL.replace('"', "").split("\n") if line]
    flags += ["--strategy", "random", "--no-augment", "--warm-start", "--lamb", "2"]
    assert main(["run", *flags, "--rounds", "1", "--out", str(tmp_path / "flags")]) == 0
    assert read_config(tmp_path / "file") == read_config(tmp_path / "flags")
    assert read_config(tmp_path / "file")["schedule"]["rounds"] == 1
    picks = [[entry.picks for entry in read_rounds(tmp_path / each)] for each in ("file", "flags")]
    assert picks[0] == picks[1]


def test_variants_are_strategies_with_options_of_their_own(tmp_path: Path) -> None:
    text = """
    strategy = ["wide", "fishermask", "loose", "middle"]
    fraction = 0.03
    [variants.wide]
    strategy = "fishermask"
    fraction = 0.05
    [variants.loose]
    strategy = "fishermask"
    no-keep-head = true
    [variants.middle]
    strategy = "fishermask"
    mask = "middle"
    [variants.unused]
    strategy = "bait"
    """
    out = tmp_path / "run"
    assert main(["run", write(tmp_path / "a.toml", text), "--rounds", "1", "--out", str(out)]) == 0
    masked = {}
    for name in ("wide", "fishermask", "loose", "middle"):
        mask = of(out, name)[1].query["mask"]
        masked[name] = (sum(each[0] for each in mask.values()), mask["11.weight"][0])
    assert masked["fishermask"] == (int(0.03 * 24048), 640)
    assert masked["wide"] == (int(0.05 * 24048), 640)
    assert masked["loose"][0] == masked["middle"][0] == int(0.03 * 24048)
    assert masked["loose"][1] < 640 and masked["middle"][1] == 0
    assert set(read_config(out)["variants"]) == {"wide", "loose", "middle"}


def test_each_seed_has_a_folder_and_plot_takes_them_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.toml", 'strategy = ["random", "margin"]\nseed = [4, 7]\n')
    out = tmp_path / "runs"
    assert main(["run", file, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["seed4", "seed7"]
    assert of(out / "seed4", "random")[0].picks != of(out / "seed7", "random")[0].picks
    assert main(["run", file, "--seed", "4", "--out", str(tmp_path / "alone")]) == 0
    picks = [
        [entry.picks for entry in read_rounds(each)] for each in (out / "seed4", tmp_path / "alone")
    ]
    assert picks[0] == picks[1]
    assert main(["plot", str(out)]) == 0
    assert "digits, cnn_small, 2 seeds" in capsys.readouterr().out


def test_a_seed_that_was_run_already_is_found_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.toml", 'strategy = ["random"]\n')
    out = tmp_path / "runs"
    assert main(["run", file, "--seed", "1", "--out", str(out / "seed1")]) == 0
    capsys.readouterr()
    assert main(["run", file, "--seed", "0", "1", "--out", str(out)]) == 2
    output = capsys.readouterr()
    assert "seed1 holds a run already" in output.err and output.out == ""
    assert [path.name for path in out.iterdir()] == ["seed1"]
    # The folders of other seeds below a run's own are not taken for it.
    assert main(["run", file, "--seed", "1", "--out", str(out)]) == 0


def test_resume_goes_on_and_says_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.toml", 'strategy = ["random"]\n')
    out = tmp_path / "run"
    # There is nothing to go on with yet.
    assert main(["run", file, "--out", str(out), "--resume"]) == 2
    assert "holds no run to go on with" in capsys.readouterr().err
    assert not out.exists()
    assert main(["run", file, "--out", str(out)]) == 0
    whole = capsys.readouterr().out
    lines = (out / "rounds.jsonl").read_text()
    (out / "rounds.jsonl").write_text(lines[: lines.index("\n") + 1])
    # The states that are kept tell that there were more.
    assert main(["run", file, "--out", str(out), "--resume"]) == 2
    assert "has lost lines" in capsys.readouterr().err
    (out / "rounds.jsonl").write_text(lines)
    assert main(["run", file, "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out == whole
    assert main(["run", file, "--out", str(out), "--resume", "--lamb", "3"]) == 2
    assert "has query.lamb = None; this one asks for 3.0" in capsys.readouterr().err
    assert main(["run", file, "--resume"]) == 2
    assert "resume needs the folder to go on in: --resume DIR" in capsys.readouterr().err


def test_a_run_stops_at_its_labels_or_its_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.toml", 'strategy = ["random", "margin"]\n')
    assert (
        main(["run", file, "--rounds", "9", "--stop-labels", "18", "--out", str(tmp_path / "l")])
        == 0
    )
    assert [entry.n_labeled for entry in of(tmp_path / "l", "random")] == [10, 15, 18]
    assert len(set(of(tmp_path / "l", "random")[-1].picks)) == 3
    first = of(tmp_path / "l", "random")[0].accuracy
    flags = ["--stop-accuracy", str(first), "--out", str(tmp_path / "a")]
    assert main(["run", file, *flags]) == 0
    assert len(list(read_rounds(tmp_path / "a"))) == 2
    capsys.readouterr()


def test_a_warm_start_goes_on_from_the_last_network(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", 'strategy = ["random"]\n')
    for name, flags in (("cold", []), ("warm", ["--warm-start"])):
        assert main(["run", file, *flags, "--out", str(tmp_path / name)]) == 0
    cold, warm = (of(tmp_path / name, "random") for name in ("cold", "warm"))
    assert [entry.picks for entry in cold] == [entry.picks for entry in warm]
    assert cold[0].accuracy == warm[0].accuracy
    assert warm[-1].training["loss"] < cold[-1].training["loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per-rounds = 3", "per-rounds is no key of a file; keys are data, "),
        ("per_round = 3", r"per_round is no key of a file.*; did you mean per-round\?"),
        ('rounds = "3"', "rounds must be of type int; got '3'"),
        ("rounds = 2.5", "rounds must be of type int; got 2.5"),
        ("rounds = true", "rounds must be of type int; got True"),
        ("seed = 3", "seed must be a list; got 3"),
        ("seed = []", r"seed must be a list; got \[\]"),
        ('seed = ["a"]', "seed must be of type int; got 'a'"),
        ("download = 1", "download must be true or false; got 1"),
        ('mask = "best"', "mask must be one of global, .*; got 'best'"),
        ("resume = true", "resume is no key of a file"),
        ("variants = 3", r"variants must be tables \[variants.NAME\]; got 3"),
        ('[variants.random]\nstrategy = "bait"', "must have a name of its own; random is a strat"),
        ("[variants.a]\nfraction = 0.1", "variants.a must be a table with a strategy"),
        ('[variants.a]\nstrategy = "best"', "strategy must be one of .*; got 'best'"),
        ('[variants.a]\nstrategy = "bait"\nrounds = 3', "rounds is no option of picking"),
        ('[variants."a b"]\nstrategy = "bait"', "name may hold letters, .*; got 'a b'"),
        ("rounds =", "cannot read .*toml"),
    ],
)
def test_mistakes_in_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert main(["run", str(file), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()
    assert main(["run", str(tmp_path / "nosuch.toml")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_documentations_file_is_ready(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "loop.md").read_text()
    text = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert text is not None
    file = tmp_path / "file.toml"
    file.write_text(text[1])
    experiment = make_experiment(parse(["run", str(file)]).keywords["options"], 0)
    assert experiment.config()["pool_counts"] == [30, 120, 30]
    assert experiment.arms["narrow"][1].fraction == 0.03


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_ready_experiments_are_ready(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *_: object) -> PoolAndTest:
        shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
        transform = images.evaluation_transform([0.5] * shape[0], [0.5] * shape[0])
        pool, test = (
            LabeledSamples(
                torch.zeros(10 * n, *shape, dtype=torch.uint8),
                torch.arange(10).repeat(n),
                transform,
            )
            for n in (5000, 1000)
        )
        classes = tuple(map(str, range(10)))
        return PoolAndTest(name, "images", classes, pool, test, transform)

    monkeypatch.setattr(images, "load_torchvision", load)
    arguments = ["run", str(path), "--device", "cpu", "--seed", "1"]
    experiment = make_experiment(parse(arguments).keywords["options"], 1)
    assert len(experiment.arms) > 1
    assert f"run benchmarks/experiments/{path.name} " in path.read_text()
