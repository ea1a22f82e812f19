"""Every field of a record and of a configuration, with every kind of value that it cannot have.

Whoever reads the folder says which file is wrong and how; nothing raw comes out, and nothing goes
on: not pictures, not the run.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from fishermask_fast.cli import main
from fishermask_fast.files import checksum
from fishermask_fast.loop.records import RunFolder, read_config, read_rounds
from fishermask_fast.loop.rounds import Round
from fishermask_fast.options import DataOptions, QueryOptions, Recipe, Schedule

CONFIG: dict[str, Any] = {
    "data": asdict(DataOptions()),
    "name": "digits",
    "n_pool": 60,
    "n_test": 20,
    "pool_counts": [30, 30],
    "metric": "accuracy",
    "classes": ["cat", "dog"],
    "model": "mlp_small",
    "device": "cpu",
    "threads": 1,
    "schedule": asdict(Schedule(("random",), 4, "random", 4, 1)),
    "recipe": asdict(Recipe()),
    "query": {
        k: v for k, v in asdict(QueryOptions()).items() if k not in ("progress", "group", "samples")
    },
    "variants": {"mine": {"strategy": "fishermask", "options": {"lamb": 0.5}}},
}
TRAINING = {"epochs": 2, "steps": 4, "accuracy": 1.0, "loss": 0.25}


def make_round(number: int) -> Round:
    query = {
        "mask": {"a.weight": [3, 9]}, "mask_overlap": 0.5, "scores": [1.0] * 4,
        "objective": [2.0, 1.0],
    } if number else {}  # fmt: skip
    return Round(
        "random", 0, number, [4 * number + i for i in range(4)], 4 * number + 4, 0.5, [0.5, None],
        [1, 3], dict(TRAINING), {"train": 0.5, "evaluate": 0.1, "query": 0.2, "query/mask": 0.1},
        query,
    )  # fmt: skip


# Of no field are these what it can be, but for those that are excused below.
KINDS: dict[str, Any] = {
    "none": None, "true": True, "text": "x", "fraction": 0.37, "negative": -3, "huge": 10**400,
    "infinite": math.inf, "nan": math.nan, "empty list": [], "list of texts": ["x"],
    "list of huge": [10**400] * 2, "list of infinities": [math.inf] * 2, "empty object": {},
    "object of text": {"mask": "x"}, "object of none": {"query": None},
    "object of infinity": {"query": math.inf}, "deep": [[[]]],
}  # fmt: skip
GOOD = {
    ("accuracy", "fraction"), ("query", "empty object"),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "run"
    folder = RunFolder(path, CONFIG)
    for number in range(2):
        folder.append(make_round(number))
    folder.close()
    return path


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "run")


def rewrite(run: Path, change: Callable[[dict[str, Any]], None], sealed: bool) -> None:
    """The record with its last line changed, checksums right, or as earlier versions had none."""
    lines = (run / "rounds.jsonl").read_text().splitlines()
    first, second = (json.loads(text) for text in lines)
    change(second)
    if sealed:
        del second["checksum"]
        second["checksum"] = checksum(second, first["checksum"].encode())
    else:
        for line in (first, second):
            del line["checksum"], line["state"]
    text = "".join(json.dumps(line) + "\n" for line in (first, second))
    (run / "rounds.jsonl").write_text(text)


def read_on(run: Path) -> object:
    return RunFolder(run, CONFIG, resume=True)


def refused(run: Path, file: str) -> None:
    for read in (read_rounds, read_on):
        with pytest.raises(ValueError, match=file):
            read(run)


def all_refused(written: Path, run: Path, name: str, values: Iterable[Any], sealed: bool) -> None:
    for value in values:
        shutil.copy(written / "rounds.jsonl", run)
        rewrite(run, lambda line, value=value: line.update({name: value}), sealed)  # type: ignore[misc]
        refused(run, r"rounds\.jsonl, line 2 is not a round")


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", [each.name for each in fields(Round)])
def test_no_field_of_a_round_can_be_anything(
    name: str, sealed: bool, written: Path, run: Path
) -> None:
    values = [value for kind, value in KINDS.items() if (name, kind) not in GOOD]
    all_refused(written, run, name, values, sealed)


@pytest.mark.parametrize("name", [each.name for each in fields(Round) if each.name != "query"])
def test_no_field_of_a_round_can_be_missing(name: str, run: Path) -> None:
    rewrite(run, lambda line: line.pop(name), True)
    refused(run, r"rounds\.jsonl, line 2 is not a round")


INNER = {
    "training": {
        **{f"{key} {kind}": {**TRAINING, key: KINDS[kind]} for key in TRAINING for kind in (
            "none", "true", "text", "huge", "empty list")},
        # A head that is solved for has no epochs.
        "without loss": {k: v for k, v in TRAINING.items() if k != "loss"},
        "more": {**TRAINING, "other": 1.0},
        "epochs of a fraction": {**TRAINING, "epochs": 1.5},
        "accuracy of 2": {**TRAINING, "accuracy": 2.0},
    },
    "seconds": {
        **{f"{key} {kind}": {"query": 1.0, key: KINDS[kind]} for key in (
            "query", "train", "query/mask") for kind in (
            "none", "true", "text", "negative", "huge", "infinite", "nan", "empty list")},
        "no query": {"train": 1.0},
        "unknown": {"query": 1.0, "other": 1.0},
    },
    "query": {
        **{f"{key} {kind}": {key: value} for key in (
            "mask", "mask_overlap", "scores", "objective") for kind, value in KINDS.items()
            if (key, kind) not in {("mask", "empty object"), ("mask_overlap", "fraction"),
                ("scores", "empty list"), ("objective", "empty list"),
                ("scores", "list of infinities"), ("objective", "list of infinities")}},
        **{f"mask of {kind}": {"mask": {"a": value}} for kind, value in KINDS.items()},
        "mask of three": {"mask": {"a": [1, 2, 3]}},
        "mask of more than all": {"mask": {"a": [9, 3]}},
        "unknown": {"other": 1.0},
    },
    "label_counts": {"more than picks": [0, 5], "three": [1, 1, 1], "one": [4]},
    "class_accuracy": {"three": [0.5] * 3, "above 1": [0.5, 1.5]},
}  # fmt: skip


@pytest.mark.parametrize("name", INNER)
def test_no_inner_part_of_a_round_can_be_anything(name: str, written: Path, run: Path) -> None:
    all_refused(written, run, name, INNER[name].values(), True)


def test_r2_may_be_below_zero(tmp_path: Path) -> None:
    for metric, reads in (("R²", True), ("accuracy", False)):
        folder = RunFolder(tmp_path / metric, {**CONFIG, "metric": metric})
        folder.append(Round(**{**vars(make_round(0)), "accuracy": -3.5, "label_counts": [4, 4]}))
        folder.close()
        if reads:
            assert read_rounds(tmp_path / metric)[0].accuracy == -3.5
        else:
            with pytest.raises(ValueError, match="accuracies must be numbers from 0 to 1"):
                read_rounds(tmp_path / metric)


def reconfigure(run: Path, change: Callable[[dict[str, Any]], None], sealed: bool) -> None:
    content = json.loads((run / "config.json").read_text())
    change(content["config"])
    content.pop("checksum")
    if sealed:
        content["checksum"] = checksum({**content, "checksum": None})
    (run / "config.json").write_text(json.dumps(content))


TEXTS = ("name", "model", "device")
GOOD_CONFIG = {
    *((name, "text") for name in TEXTS), ("pool_counts", "empty list"),
    ("classes", "list of texts"), ("variants", "empty object"),
    *((name, "empty object") for name in ("data", "schedule", "recipe", "query")),
}  # fmt: skip


def refused_config(run: Path, more: str = "") -> None:
    refused(run, rf"config\.json is not a run's configuration.*{more}")
    with pytest.raises(ValueError, match=r"config\.json is not a run's configuration"):
        read_config(run)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", CONFIG)
def test_no_part_of_a_configuration_can_be_anything(
    name: str, sealed: bool, written: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, value in KINDS.items():
        if (name, kind) in GOOD_CONFIG:
            continue
        shutil.copy(written / "config.json", run)
        reconfigure(run, lambda config, value=value: config.update({name: value}), sealed)  # type: ignore[misc]
        refused_config(run)
    for command in ("plot", "run --resume"):
        assert main([*command.split(), str(run)]) == 2
        assert "is not a run's configuration" in capsys.readouterr().err


OUT_OF_RANGE = [
    ("schedule", "rounds", -1), ("schedule", "strategies", []), ("recipe", "epochs", 0),
    ("query", "mask", "x"), ("query", "other", 1), ("data", "other", 1), ("schedule", "seed", -1),
]  # fmt: skip


@pytest.mark.parametrize("part", ["data", "schedule", "recipe", "query"])
def test_no_option_of_a_configuration_can_be_anything(part: str, written: Path, run: Path) -> None:
    bad = [(key, value) for key in CONFIG[part] for value in ({"x": 1}, [None], math.inf, 10**400)]
    bad += [(key, value) for where, key, value in OUT_OF_RANGE if where == part]
    for key, value in bad:
        shutil.copy(written / "config.json", run)
        reconfigure(run, lambda config, k=key, v=value: config[part].update({k: v}), True)  # type: ignore[misc]
        refused_config(run, part)


@pytest.mark.parametrize(
    "variant", [None, 3, [], {}, {"strategy": 3}, {"options": {}}, {"strategy": "bait", "x": 1},
                {"strategy": "bait", "options": 3}, {"strategy": "bait", "options": {"x": 1}},
                {"strategy": "bait", "options": {"lamb": "x"}}],
    ids=str,
)  # fmt: skip
def test_no_variant_can_be_anything(variant: Any, run: Path) -> None:
    reconfigure(run, lambda config: config["variants"].update(mine=variant), True)
    refused_config(run, "variants")


@pytest.mark.parametrize("name", ["name", "model", "classes", "n_pool", "data"])
def test_pictures_need_what_they_tell(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reconfigure(run, lambda config: config.pop(name), True)
    assert main(["plot", str(run)]) == 2
    assert "is not a run's configuration" in capsys.readouterr().err


FLAGS = "run --data iris --strategy random bait --initial 6 --per-round 3 --rounds 2 --epochs 2"


@pytest.mark.parametrize(("what", "seeds"), [("removed", "0 1"), ("empty", "0")])
def test_a_record_that_was_removed_is_not_begun_anew(
    what: str,
    seeds: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*FLAGS.split(), "--min-steps", "2", "--seed", *seeds.split(), "--out", "r"]
    assert main(flags) == 0
    file = next(iter(sorted(Path("r").glob("**/rounds.jsonl"))))
    file.unlink()
    if what == "empty":
        file.touch()
    before = sorted(path for path in Path("r").glob("**/*"))
    capsys.readouterr()
    assert main(["run", "--resume", "r"]) == 2
    assert "has lost lines, or was removed" in capsys.readouterr().err
    assert sorted(path for path in Path("r").glob("**/*")) == before


def test_two_first_states_without_a_round_are_a_record_that_was_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", CONFIG)
    folder.save_state("random", 0, b"state")
    folder.save_state("bait", 0, b"state")
    os.close(folder._lock)
    with pytest.raises(ValueError, match="has lost lines, or was removed"):
        RunFolder(tmp_path / "run", CONFIG, resume=True)


def test_a_run_that_was_killed_before_its_first_line_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", CONFIG)
    folder.save_state("random", 0, b"state")
    os.close(folder._lock)  # as a process that is killed leaves it
    RunFolder(tmp_path / "run", CONFIG, resume=True).close()
