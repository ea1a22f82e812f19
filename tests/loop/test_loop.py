"""The loop: strategies, records, pictures, and a whole run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fishermask_fast import strategies
from fishermask_fast.datasets import PoolAndTest, load_data
from fishermask_fast.loop import records
from fishermask_fast.loop.records import Round, RunFolder, read_rounds
from fishermask_fast.loop.report import tables
from fishermask_fast.loop.run.experiment import Experiment
from fishermask_fast.options import DataOptions, QueryOptions, Recipe, Schedule
from fishermask_fast.strategies.interface import Picks

QUICK = Recipe(epochs=2, min_steps=4)
QUERY = QueryOptions(fraction=0.03, fisher_samples=32)


@pytest.fixture(scope="module")
def digits() -> PoolAndTest:
    return load_data(DataOptions(pool_size=80, test_size=60))


def make_round(strategy: str = "random", number: int = 0, accuracy: float = 0.5) -> Round:
    return Round(
        strategy=strategy,
        seed=0,
        round=number,
        picks=[3 + 4 * number, 1 + 4 * number],
        n_labeled=2 + 2 * number,
        accuracy=accuracy,
        class_accuracy=[0.5, None],
        label_counts=[1, 1],
        training={"epochs": 1, "steps": 2, "accuracy": 1.0, "loss": 0.1},
        seconds={"train": 0.1} | ({"query": 0.25} if number else {}),
        query={"objective": [8.0, 4.0, 2.0]} if number and strategy == "bait" else {},
    )


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", {"seed": 4})
    entries = [make_round("random"), make_round("bait"), make_round("bait", 1)]
    for entry in entries:
        folder.append(entry)
    assert list(read_rounds(folder.path)) == entries
    config = json.loads((folder.path / "config.json").read_text())
    assert config["config"] == {"seed": 4}
    assert config["versions"]["torch"] is not None
    assert {path.name for path in folder.path.iterdir()} == {"config.json", "rounds.jsonl"}


def test_records_refuse_what_is_there_already(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {})
    with pytest.raises(ValueError, match="holds a run already; .* --resume"):
        RunFolder(tmp_path / "run", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out must be a folder"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(ValueError, match=r"holds no rounds.jsonl"):
        list(read_rounds(tmp_path))
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is not a round"):
        list(read_rounds(tmp_path))


def test_a_line_that_does_not_fit_is_not_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, {})
    folder.append(make_round())
    write = records.os.write
    monkeypatch.setattr(records.os, "write", lambda file, line: write(file, line[:10]))
    with pytest.raises(OSError, match="no room left"):
        folder.append(make_round())
    assert len(list(read_rounds(tmp_path))) == 1


def test_fresh_folders(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = records.fresh_folder(tmp_path, "run")
        path.mkdir()
        names.append(path.name)
    assert names == ["run", "run-2", "run-3"]


def test_tables_say_what_was_gained() -> None:
    entries = [
        make_round("bait", 0, 0.5),
        make_round("random", 0, 0.5),
        make_round("bait", 1, 0.75),
        make_round("random", 1, 0.6),
    ]
    names = tables.header(["bait", "random"]).splitlines()[1]
    assert names.split() == ["round", "labels", "bait", "random"]
    assert tables.row(entries[2:], ["bait", "random"]).split() == ["1", "4", "75.0%", "60.0%"]
    bait, random = tables.summary(entries).splitlines()[1:]
    assert " ".join(bait.split()) == "bait 2 -> 4 50.0% -> 75.0% +25.0 75.0% 0.25 s 8 -> 2"
    assert " ".join(random.split()) == "random 2 -> 4 50.0% -> 60.0% +10.0 60.0% 0.25 s -"
    assert "-" in tables.summary(entries[:2])


SCHEDULE = Schedule(initial=12, per_round=6, rounds=2)


def run(data: PoolAndTest, schedule: Schedule, folder: Path) -> list[Round]:
    experiment = Experiment(data, "cnn_small", schedule, QUICK, QUERY)
    return list(experiment.run(RunFolder(folder, experiment.config())))


def test_a_run_labels_each_sample_once_and_is_repeated_by_its_seed(
    digits: PoolAndTest, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    first = run(digits, SCHEDULE, tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), state)
    assert first == list(read_rounds(tmp_path / "first"))
    assert [(r.round, r.strategy) for r in first] == [
        (number, name) for number in range(3) for name in SCHEDULE.strategies
    ]
    for name in SCHEDULE.strategies:
        mine = [entry for entry in first if entry.strategy == name]
        assert mine[0].picks == first[0].picks
        assert mine[0].accuracy == first[0].accuracy
        picks = [pick for entry in mine for pick in entry.picks]
        assert len(picks) == len(set(picks)) == 24
        assert set(picks) <= set(range(80))
        assert [entry.n_labeled for entry in mine] == [12, 18, 24]
        for entry in mine:
            counts = digits.pool.targets[entry.picks].bincount(minlength=10)
            assert entry.label_counts == counts.tolist()

    again = run(digits, SCHEDULE, tmp_path / "again")
    for one, other in zip(first, again, strict=True):
        assert dataclasses.replace(one, seconds={}) == dataclasses.replace(other, seconds={})
    other_seed = run(digits, dataclasses.replace(SCHEDULE, seed=1, rounds=0), tmp_path / "other")
    assert other_seed[0].picks != first[0].picks


def test_a_strategys_picks_do_not_depend_on_the_others(digits: PoolAndTest, tmp_path: Path) -> None:
    together = run(digits, SCHEDULE, tmp_path / "together")
    alone = run(digits, dataclasses.replace(SCHEDULE, strategies=("bait",)), tmp_path / "alone")
    picks = [entry.picks for entry in together if entry.strategy == "bait"]
    assert [entry.picks for entry in alone] == picks


def test_queries_lower_the_objective(digits: PoolAndTest, tmp_path: Path) -> None:
    for entry in run(digits, SCHEDULE, tmp_path):
        if entry.round and entry.strategy != "random":
            objective = entry.query["objective"]
            assert objective[-1] < objective[0]
            assert len(entry.query["scores"]) == 6


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"strategies": ()}, "at least one strategy"),
        ({"strategies": ("best",)}, "strategy must be one of .*; got 'best'"),
        ({"strategies": ("bait", "bait")}, "must differ"),
        ({"initial": 1}, "initial must be at least 2; got 1"),
        ({"per_round": 0}, "per_round must be at least 1; got 0"),
        ({"rounds": -1}, "rounds must be at least 0; got -1"),
        ({"initial": 60, "per_round": 11}, "need 82 pool samples; the pool has 80"),
    ],
)
def test_bad_schedules_are_named(
    digits: PoolAndTest, schedule: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(digits, "cnn_small", dataclasses.replace(SCHEDULE, **schedule), QUICK, QUERY)  # type: ignore[arg-type]


def test_options_unfit_for_the_model_are_found_before_training(digits: PoolAndTest) -> None:
    with pytest.raises(ValueError, match="fewer than the head's 640 parameters"):
        Experiment(digits, "cnn_small", SCHEDULE, QUICK, QueryOptions(fraction=0.002))


def test_a_strategy_that_repeats_itself_is_caught(
    digits: PoolAndTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeat(*_: object) -> Picks:
        return Picks(Tensor([0, 0, 0, 0, 0, 0]).long())

    monkeypatch.setitem(strategies.STRATEGIES, "random", repeat)
    schedule = dataclasses.replace(SCHEDULE, strategies=("random",))
    with pytest.raises(RuntimeError, match="random must return 6 different indices"):
        run(digits, schedule, tmp_path)
