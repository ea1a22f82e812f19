"""Curves, areas, intervals, and the pictures of recorded runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fishermask_fast import plotting
from fishermask_fast.cli import main
from fishermask_fast.loop.records import Round, RunFolder
from fishermask_fast.loop.report import curves, tables
from fishermask_fast.loop.report.analysis import Curve, Interval, compare, read_study

CLASSES = ["cat", "dog", "owl"]


def write_run(path: Path, seed: int, accuracies: dict[str, list[float]], **config: object) -> None:
    """A recorded run with the given accuracies of each strategy at 10, 20, ... labels."""
    data = {"name": "nosuch", "class_counts": None, "seed": seed}
    base = {"name": "animals", "model": "net", "classes": CLASSES, "data": data, "n_pool": 99}
    folder = RunFolder(path, base | config)
    for name, row in accuracies.items():
        for number, accuracy in enumerate(row):
            query = {}
            if number and name.startswith("fisher"):
                query = {"mask": {"a.weight": [3 * number, 40], "b.weight": [5, 5]}}
            if number > 1 and query:
                query["mask_overlap"] = 0.25 * number
            folder.append(
                Round(
                    strategy=name,
                    seed=seed,
                    round=number,
                    picks=list(range(10 * number, 10 * number + 10)),
                    n_labeled=10 * (number + 1),
                    accuracy=accuracy,
                    class_accuracy=[accuracy] * 3,
                    label_counts=[5, 3, 2],
                    training={"epochs": 1, "steps": 2, "accuracy": 1.0, "loss": 0.1},
                    seconds={"train": 2.0, "evaluate": 0.5}
                    | ({"query": 1.0, "query/mask": 0.25} if number else {}),
                    query=query,
                )
            )
    folder.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, shift in ((0, 0.0), (1, 0.1), (2, 0.02)):
        accuracies = {
            "fishermask": [0.3 + shift, 0.6 + shift, 0.7 + shift],
            "random": [0.3 + shift, 0.4 + shift, 0.6 + 2 * shift],
            "bait": [0.3 + shift, 0.2 + shift, 0.4 + shift],
        }
        write_run(tmp_path / "runs" / f"seed{seed}", seed, accuracies)
    return tmp_path / "runs"


def test_areas_and_labels_are_those_of_the_curve() -> None:
    curve = Curve(
        np.array([10.0, 20.0, 40.0]), np.array([[0.2, 0.4, 0.8], [0.5, 0.3, 0.4]]), (3, 5)
    )
    # (10 * 0.3 + 20 * 0.6) / 30 and (10 * 0.4 + 20 * 0.35) / 30
    assert curve.areas() == pytest.approx({3: 0.5, 5: 11 / 30})
    assert curve.labels_to(0.5) == pytest.approx({3: 25.0, 5: 10.0})
    assert curve.labels_to(0.81) == {}
    assert Curve(np.array([10.0]), np.array([[0.2]]), (0,)).areas() == {0: 0.2}


def test_intervals_are_students() -> None:
    found = Interval.of([1.0, 2.0, 4.0])
    # t_{0.975, 2} = 4.302653, s = 1.527525
    half = 4.302653 * 1.527525 / math.sqrt(3)
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert found.low == pytest.approx(7 / 3 - half, rel=1e-6)
    assert found.high == pytest.approx(7 / 3 + half, rel=1e-6)
    assert math.isnan(Interval.of([1.0]).low)
    assert Interval.of([]).n == 0


def test_strategies_are_compared_seed_by_seed(runs: Path) -> None:
    study = read_study([runs])
    assert study.baseline == "random"
    first, random, last = compare(study)
    assert [first.strategy, random.strategy, last.strategy] == ["fishermask", "random", "bait"]
    # Areas: (0.9 + 1.3) / 4 + shift and (0.7 + 1.0 + shift) / 4 + shift, for shifts 0, 0.1, 0.02.
    gains = [0.125 - shift / 4 for shift in (0.0, 0.1, 0.02)]
    expected_gain = Interval.of(gains)
    assert first.area_gain.mean == pytest.approx(expected_gain.mean)
    assert first.area_gain.low == pytest.approx(expected_gain.low)
    assert (first.verdict, last.verdict) == ("wins", "loses")
    assert random.area_gain.mean == 0
    assert last.labels.n < 3
    target = 0.6 + 2 * 0.04
    assert study.target() == pytest.approx(target)
    expected = 20 + 10 * (target - 0.6) / 0.1
    assert compare(study, target)[0].labels.n == 3
    assert study.curve("fishermask").labels_to(target)[0] == pytest.approx(expected)


def test_any_strategy_can_be_the_baseline(runs: Path) -> None:
    gain = {each.strategy: each.area_gain for each in compare(read_study([runs]))}["bait"]
    study = read_study([runs], "bait")
    turned = {each.strategy: each.area_gain for each in compare(study)}["random"]
    assert study.baseline == "bait"
    assert (turned.mean, turned.low) == pytest.approx((-gain.mean, -gain.high))


def test_a_round_that_not_all_seeds_have_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, {"random": [0.1, 0.2, 0.3]})
    write_run(tmp_path / "b", 1, {"random": [0.2, 0.4]})
    curve = read_study([tmp_path]).curve("random")
    assert curve.labels.tolist() == [10, 20]
    assert curve.accuracy.tolist() == [[0.1, 0.2], [0.2, 0.4]]


def test_one_that_stopped_early_is_measured_over_the_same_labels(tmp_path: Path) -> None:
    """Areas over 10 to 20 labels, which both have; labels over all rounds of each seed."""
    write_run(tmp_path / "a", 0, {"fishermask": [0.2, 0.8], "random": [0.2, 0.4, 0.6, 0.8]})
    write_run(tmp_path / "b", 1, {"fishermask": [0.2, 0.4, 0.8], "random": [0.2, 0.4, 0.6, 0.8]})
    study = read_study([tmp_path])
    first, second = compare(study, 0.8)
    assert (first.strategy, second.strategy) == ("fishermask", "random")
    assert (first.area.mean, second.area.mean) == pytest.approx((0.4, 0.3))
    assert first.area_gain.mean == pytest.approx(0.1)
    assert (first.labels.mean, second.labels.mean) == pytest.approx((25, 40))
    assert first.labels_saved.mean == pytest.approx(15)
    text = tables.comparison(study, [first, second], 0.8)
    assert "from 10 to 20 labels" in text
    assert "how many reach 80.0%. Saved" in text
    assert "how many reach 80.0%, where random ends" in tables.comparison(study, [first, second])


def test_seeds_that_a_strategy_lacks_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, {"bait": [0.2, 0.8], "random": [0.2, 0.4]})
    write_run(tmp_path / "b", 1, {"random": [0.2, 0.5]})
    write_run(tmp_path / "c", 2, {"margin": [0.2, 0.5]})
    study = read_study([tmp_path])
    lines = tables.comparison(study, compare(study)).splitlines()
    assert lines[6].startswith("| bait | 50.0 (1 of 3 seeds) | +20.0 | one seed |")
    assert next(line for line in lines if "margin" in line).count("no seed in common") == 1
    curves.gains(study, compare(study), tmp_path / "gains")


def test_runs_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        read_study([tmp_path])
    write_run(tmp_path / "a", 0, {"random": [0.1]})
    write_run(tmp_path / "b", 0, {"random": [0.1]})
    with pytest.raises(ValueError, match="both hold random with seed 0"):
        read_study([tmp_path])
    write_run(tmp_path / "c", 0, {"random": [0.1]}, model="other")
    with pytest.raises(ValueError, match="differs from .* in model"):
        read_study([tmp_path / "a", tmp_path / "c"])


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"data": {"pool_size": 9}}, {"data": {"pool_size": 8}}, "in data.pool_size: 8 and 9"),
        ({"schedule": {"initial": 9}}, {"schedule": {"initial": 8}}, "in schedule.initial"),
        (
            {"variants": {"v": {"strategy": "bait"}}},
            {"variants": {"v": {"strategy": "random"}}},
            "in variants.v",
        ),
        (
            {"variants": {"v": {"strategy": "bait"}}},
            {"variants": {"w": {"strategy": "bait"}}},
            None,
        ),
        ({"schedule": {"rounds": 9}}, {"schedule": {"rounds": 8}}, None),
        ({"data": {"root": "x", "seed": 0}}, {"data": {"root": "y", "seed": 1}}, None),
    ],
)
def test_runs_of_other_data_or_schedules_are_named(
    ours: dict[str, object], theirs: dict[str, object], message: str | None, tmp_path: Path
) -> None:
    for seed, config in enumerate((ours, theirs)):
        write_run(tmp_path / str(seed), seed, {"random": [0.1]}, **config)
    if message is None:
        assert len(read_study([tmp_path]).folders) == 2
    else:
        with pytest.raises(ValueError, match=message):
            read_study([tmp_path])


def test_plot_writes_every_picture_and_the_table(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(runs)]) == 0
    output = capsys.readouterr()
    names = {
        "learning_curves",
        "learning_curves_apart",
        "gains",
        "label_distribution",
        "mask_profile",
        "mask_overlap",
        "time_by_step",
    }
    files = {path.name for path in (runs / "pictures").iterdir()}
    expected = {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    assert files == expected | {"comparison.md"}
    for name in names:
        with Image.open(runs / "pictures" / f"{name}.png") as image:
            assert image.format == "PNG" and min(image.size) > 300
        text = (runs / "pictures" / f"{name}.svg").read_text()
        assert "fishermask" in text
    table = (runs / "pictures" / "comparison.md").read_text()
    assert table in output.out
    rows = [line for line in table.splitlines() if line.startswith("| fishermask")]
    assert "wins" in rows[0] and "[" in rows[0]
    before = (runs / "pictures" / "gains.svg").read_bytes()
    assert main(["plot", str(runs), "--target", "0.5"]) == 0
    assert (runs / "pictures" / "gains.svg").read_bytes() == before
    assert "how many reach 50.0%. Saved" in capsys.readouterr().out


def test_plot_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "nosuch")]) == 2
    assert "holds no run" in capsys.readouterr().err
    write_run(tmp_path / "a", 0, {"random": [0.1]})
    assert main(["plot", str(tmp_path), "--target", "50"]) == 2
    assert "target must be in (0, 1]; got 50.0" in capsys.readouterr().err
    assert main(["plot", str(tmp_path), "--baseline", "bait"]) == 2
    assert "baseline must be one of random; got 'bait'" in capsys.readouterr().err


def test_picks_are_drawn_from_the_data_of_the_run(tmp_path: Path) -> None:
    flags = "run --pool-size 40 --test-size 20 --initial 10 --per-round 3 --rounds 1 --epochs 1"
    out = tmp_path / "run"
    assert (
        main([*flags.split(), "--min-steps", "2", "--strategy", "random", "--out", str(out)]) == 0
    )
    assert (out / "learning_curve.svg").exists()
    assert main(["plot", str(out), "--out", str(tmp_path / "pictures")]) == 0
    with Image.open(tmp_path / "pictures" / "picks_random.png") as image:
        assert image.size[0] > image.size[1]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), plotting.figure_to(tmp_path / "a.b", (2, 2)) as figure:
        figure.add_subplot()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with plotting.figure_to(tmp_path / "a.b", (2, 2)) as figure:
        figure.add_subplot()
    assert {path.name for path in tmp_path.iterdir()} == {"a.b.png", "a.b.svg"}
