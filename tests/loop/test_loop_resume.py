"""Runs that stop anywhere and go on."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import killed_run
import pytest
import torch

from fishermask_fast.loop import records
from fishermask_fast.loop.records import Round, RunFolder, read_rounds
from fishermask_fast.loop.run.experiment import Experiment

TRAINING = {"epochs": 1, "steps": 2, "accuracy": 1.0, "loss": 0.1}


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[False, True], ids=["from scratch", "warm"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Experiment, list[Round]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    experiment = killed_run.experiment(warm_start=request.param)
    folder = RunFolder(tmp_path_factory.mktemp("whole"), experiment.config())
    rounds = list(experiment.run(folder))
    folder.close()
    torch.set_num_threads(before)
    return experiment, rounds


def timeless(rounds: list[Round]) -> list[Round]:
    return [dataclasses.replace(entry, seconds={}) for entry in rounds]


@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_at_any_moment_ends_with_the_same_picks(
    whole: tuple[Experiment, list[Round]], tmp_path: Path
) -> None:
    experiment, rounds = whole
    if not experiment.recipe.warm_start:
        pytest.skip("the warm run carries more from round to round")
    script = Path(killed_run.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 3
    assert timeless(list(read_rounds(tmp_path))) == timeless(rounds)
    # One network a strategy is kept, from which more rounds could go on.
    last = {f"{entry.strategy}-{rounds[-1].round}.pt" for entry in rounds}
    assert {path.name for path in (tmp_path / "state").iterdir()} == last


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("n_rounds", [0, 1, 4, 11, 12])
def test_a_run_goes_on_after_any_round(
    whole: tuple[Experiment, list[Round]], tmp_path: Path, n_rounds: int
) -> None:
    experiment, rounds = whole
    folder = RunFolder(tmp_path, experiment.config())
    running = experiment.run(folder)
    for _ in range(n_rounds):
        next(running)
    running.close()
    folder.close()
    assert (tmp_path / "config.json").exists() == (n_rounds > 0)
    folder = RunFolder(tmp_path, experiment.config(), resume=True)
    assert timeless(folder.rounds) == timeless(rounds[:n_rounds])
    assert timeless(list(experiment.run(folder))) == timeless(rounds[n_rounds:])
    folder.close()
    assert timeless(list(read_rounds(tmp_path))) == timeless(rounds)


@pytest.mark.usefixtures("one_thread")
def test_a_line_that_was_being_written_is_left_out(
    whole: tuple[Experiment, list[Round]], tmp_path: Path
) -> None:
    experiment, rounds = whole
    folder = RunFolder(tmp_path, experiment.config())
    running = experiment.run(folder)
    for _ in range(5):
        next(running)
    folder.close()
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"strategy": "badge", "se')
    assert len(list(read_rounds(tmp_path))) == 5
    folder = RunFolder(tmp_path, experiment.config(), resume=True)
    assert timeless(list(experiment.run(folder))) == timeless(rounds[5:])
    folder.close()


@pytest.mark.usefixtures("one_thread")
def test_a_lost_state_is_named(whole: tuple[Experiment, list[Round]], tmp_path: Path) -> None:
    experiment, _ = whole
    folder = RunFolder(tmp_path, experiment.config())
    next(experiment.run(folder))
    folder.close()
    (tmp_path / "state" / "fishermask-0.pt").unlink()
    folder = RunFolder(tmp_path, experiment.config(), resume=True)
    with pytest.raises(ValueError, match=r"fishermask-0.pt is gone"):
        next(experiment.run(folder))
    folder.close()


def test_another_configuration_does_not_go_on(tmp_path: Path) -> None:
    config = {"model": "a", "data": {"root": "here", "seed": 1}}
    folder = RunFolder(tmp_path, config)
    folder.append(Round("random", 0, 0, [1], 1, 0.5, [0.5], [1], TRAINING, {}))
    folder.close()
    RunFolder(tmp_path, {"model": "a", "data": {"root": "there", "seed": 1}}, resume=True).close()
    with pytest.raises(ValueError, match="has data.seed = 1; this one asks for 2"):
        RunFolder(tmp_path, {"model": "a", "data": {"root": "here", "seed": 2}}, resume=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a run's configuration"):
        RunFolder(tmp_path, config, resume=True)


@pytest.mark.parametrize("content", ["{}", "mine", '{"config": 3, "versions": {}}'])
def test_a_config_that_is_not_the_runs_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="is not a run's configuration"):
        RunFolder(tmp_path, {"model": "a"}, resume=True)
    with pytest.raises(ValueError, match="holds a run already"):
        RunFolder(tmp_path, {"model": "a"})
    assert (tmp_path / "config.json").read_text() == content


def test_a_run_of_another_configuration_that_has_no_round_yet_is_left_alone(tmp_path: Path) -> None:
    config = {"config": {"model": "a"}, "versions": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has model = 'a'; this one asks for 'b'"):
        RunFolder(tmp_path, {"model": "b"}, resume=True)
    assert json.loads((tmp_path / "config.json").read_text()) == config


@pytest.mark.parametrize("resume", [False, True])
def test_a_record_that_nobody_vouches_for_is_not_gone_on_with(tmp_path: Path, resume: bool) -> None:
    folder = RunFolder(tmp_path, {"model": "a"})
    folder.append(Round("random", 0, 0, [1], 1, 0.5, [0.5], [1], TRAINING, {}))
    folder.close()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds a rounds\.jsonl without the config\.json"):
        RunFolder(tmp_path, {"model": "b"}, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.jsonl"]


def test_other_versions_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path, {})
    folder.append(Round("random", 0, 0, [1], 1, 0.5, [0.5], [1], TRAINING, {}))
    folder.close()
    monkeypatch.setattr(records, "versions", lambda: {"torch": "9"})
    with caplog.at_level(logging.WARNING, "fishermask_fast"):
        for _ in range(2):
            RunFolder(tmp_path, {}, resume=True).close()
    assert len(caplog.records) == 1
    assert records._read_config(tmp_path)["resumed_with"] == [{"torch": "9"}]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    with pytest.raises(ValueError, match="another process is running in"):
        RunFolder(tmp_path / "run", {}, resume=True)
    folder.close()
    assert not (tmp_path / "run").exists()
    RunFolder(tmp_path / "run", {}).close()
