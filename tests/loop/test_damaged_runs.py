"""A run's folder is read back as it was written, or refused with its name and the reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import damaged_bytes, damaged_lines

from fishermask_fast.loop.records import RunFolder, read_rounds
from fishermask_fast.loop.rounds import Round

CONFIG = {
    "n_pool": 60,
    "classes": ["cat", "dog"],
    "schedule": {"strategies": ["fisher-1", "random"], "seed": 3, "rounds": 4},
}
NAMES = ("fisher-1", "random")


def make_round(strategy: str, number: int) -> Round:
    picks = [8 * number + i if strategy == "random" or not number else 59 - 4 * number - i
             for i in range(4)]  # fmt: skip
    return Round(
        strategy, 3, number, picks, 4 * (number + 1), 0.25 * number, [0.5, None], [1, 3],
        {"epochs": 2, "steps": 4, "accuracy": 1.0, "loss": float("nan") if number == 2 else 0.25},
        {"train": 0.5, "query": 0.0},
        {"mask_overlap": 0.5} if number else {},
    )  # fmt: skip


ROUNDS = [make_round(name, number) for number in range(3) for name in NAMES]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two strategies that was stopped after three of five rounds."""
    folder = RunFolder(tmp_path / "run", CONFIG)
    for entry in ROUNDS:
        folder.save_state(entry.strategy, entry.round, f"{entry.strategy} {entry.round}".encode())
        folder.append(entry)
    folder.close()
    return tmp_path / "run"


def told(rounds: list[Round]) -> str:
    return json.dumps([vars(entry) for entry in rounds])


def go_on(run: Path) -> list[Round]:
    """What a run that goes on reads: rounds, and the states of the last ones."""
    folder = RunFolder(run, CONFIG, resume=True)
    try:
        for name in NAMES:
            last = [entry.round for entry in folder.rounds if entry.strategy == name][-1]
            assert folder.load_state(name, last) == f"{name} {last}".encode()
        return folder.rounds
    finally:
        folder.close()


def test_whole_folders(run: Path) -> None:
    assert told(go_on(run)) == told(read_rounds(run)) == told(ROUNDS)


@pytest.mark.parametrize("name", ["rounds.jsonl", "config.json", "state/random-2.pt"])
def test_no_damage_is_gone_on_with(name: str, run: Path) -> None:
    file = run / name
    whole = file.read_bytes()
    damages = list(damaged_bytes(whole, 12))
    if name == "rounds.jsonl":
        damages += damaged_lines(whole, 12)
    refused = 0
    for content in damages:
        file.write_bytes(content)
        try:
            found = go_on(run)
        except ValueError as error:
            assert str(run) in str(error)
            refused += 1
        else:
            assert told(found) == told(ROUNDS)
    assert refused > 0.8 * len(damages)


def test_no_damage_is_drawn(run: Path) -> None:
    """Pictures are of what was recorded; only the last round's line may be cut off unseen."""
    file = run / "rounds.jsonl"
    whole = file.read_bytes()
    for content in (*damaged_bytes(whole, 12), *damaged_lines(whole, 12)):
        file.write_bytes(content)
        try:
            found = read_rounds(run)
        except ValueError as error:
            assert str(run) in str(error)
        else:
            assert told(found) == told(ROUNDS[: len(found)])


def unsealed(run: Path, change: dict[str, Any], number: int = 3) -> None:
    """The record as an earlier version would have written it, with one line changed."""
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["checksum"], line["state"]
    lines[number] |= change
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_records_of_earlier_versions_are_read(run: Path) -> None:
    unsealed(run, {})
    config = json.loads((run / "config.json").read_text())
    del config["checksum"]
    (run / "config.json").write_text(json.dumps(config))
    assert told(go_on(run)) == told(ROUNDS)


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "../../../x"}, {"strategy": "a/b"}, {"strategy": 3}, {"strategy": None},
        {"strategy": ""}, {"strategy": "another"}, {"strategy": "x" * 300},
        {"seed": 4}, {"seed": "3"}, {"seed": 3.0}, {"seed": -1}, {"seed": True},
        {"round": 2}, {"round": 0}, {"round": -1}, {"round": "1"}, {"round": 1.0}, {"round": 9},
        {"picks": [60, 9, 10, 11]}, {"picks": [-1, 9, 10, 11]}, {"picks": [8, 8, 10, 11]},
        {"picks": [0, 9, 10, 11]}, {"picks": [8, 9, 10]}, {"picks": "8910"}, {"picks": None},
        {"picks": [8.0, 9, 10, 11]}, {"picks": [True, 9, 10, 11]}, {"picks": {"8": 9}},
        {"picks": 8}, {"picks": [2**70, 9, 10, 11]},
        {"n_labeled": 7}, {"n_labeled": "8"}, {"n_labeled": None},
        {"accuracy": 1.5}, {"accuracy": -0.1}, {"accuracy": float("nan")}, {"accuracy": "0.5"},
        {"accuracy": None}, {"accuracy": True},
        {"class_accuracy": [2.0, None]}, {"class_accuracy": "x"}, {"class_accuracy": None},
        {"label_counts": [-1, 5]}, {"label_counts": [1.5]}, {"label_counts": None},
        {"training": []}, {"training": {"loss": "x"}}, {"training": None},
        {"seconds": {"train": -1}}, {"seconds": {"train": None}}, {"seconds": 3},
        {"query": []}, {"query": {"mask_overlap": "x"}}, {"unknown": 3},
    ],
    ids=str,
)  # fmt: skip
def test_types_ranges_and_sequence(change: dict[str, Any], run: Path) -> None:
    unsealed(run, change)
    with pytest.raises(ValueError, match=r"rounds.jsonl, line \d is not a round"):
        go_on(run)
    with pytest.raises(ValueError, match=r"rounds.jsonl, line \d is not a round"):
        read_rounds(run)


def test_the_initial_set_is_the_same_for_all(run: Path) -> None:
    unsealed(run, {"picks": [50, 51, 52, 53]}, number=1)
    with pytest.raises(ValueError, match="round 0 must be the same for every strategy"):
        read_rounds(run)


@pytest.mark.parametrize(
    "line", ["null", "3", "[]", "{}", "[" * 100_000, '{"strategy": "a", "strategy": "a"}', "\xff"]
)
def test_lines_that_are_none(line: str, run: Path) -> None:
    content = (run / "rounds.jsonl").read_bytes()
    (run / "rounds.jsonl").write_bytes(content + line.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match="rounds.jsonl, line 7 is not a round"):
        go_on(run)


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "[" * 100_000, '{"config": {}}', '{"config": [], "versions": {}}',
     '{"config": {}, "versions": {}, "resumed_with": 3}', '{"config": {}, "config": {}}'],
)  # fmt: skip
def test_configurations_that_are_none(content: str, run: Path) -> None:
    (run / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is not a run's configuration"):
        go_on(run)


@pytest.mark.parametrize("what", ["removed", "shorter", "longer", "replaced"])
def test_a_record_that_changes_while_the_run_is_going(what: str, run: Path) -> None:
    folder = RunFolder(run, CONFIG, resume=True)
    file = run / "rounds.jsonl"
    if what == "removed":
        file.unlink()
    elif what == "replaced":
        shutil.copy(file, run / "other")
        with (run / "other").open("a") as other:
            other.write("x\n")
        (run / "other").replace(file)
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if what == "shorter" else content + b"\n")
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(ValueError, match="while the run was going"):
        folder.append(make_round("random", 3))
    assert (file.read_bytes() if file.exists() else None) == before
    folder.close()


@pytest.mark.parametrize("name", ["rounds.jsonl", "config.json"])
def test_files_that_are_folders_or_pipes(name: str, run: Path) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match="must be a file"):
        RunFolder(run, CONFIG, resume=True)
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises((ValueError, OSError)):
        RunFolder(run, CONFIG, resume=True)


def test_links_are_not_followed_out_of_the_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "elsewhere").mkdir()
    folder = RunFolder(tmp_path / "new", CONFIG)
    (tmp_path / "new" / "rounds.jsonl").symlink_to(tmp_path / "victim")
    (tmp_path / "new" / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="it is a link to"):
        folder.save_state("random", 0, b"state")
    with pytest.raises(OSError):
        folder.append(ROUNDS[1])
    folder.close()
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_empty_state_is_refused_in_old_records_too(run: Path) -> None:
    unsealed(run, {})
    (run / "state" / "random-2.pt").write_bytes(b"")
    folder = RunFolder(run, CONFIG, resume=True)
    assert folder.load_state("random", 2) == b""  # which no network can be made of
    folder.close()
