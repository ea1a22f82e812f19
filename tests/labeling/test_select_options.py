"""``select`` with each option of picking: the selector's own picks, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked_data import CLASSES, OWN, Data, K, N, cases, save
from test_select import rows, write_image

from fishermask_fast import FisherMaskSelector
from fishermask_fast.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path(f"options_{tmp_path.name}.py").write_text(OWN)
    return tmp_path


def table_flags(here: Path) -> list[str]:
    return ["--csv", "data.csv", "--model", f"options_{here.name}:table"]


EMBEDDINGS = ["--embeddings", "pool.npz"]


def select(*flags: str, strategy: str = "bait", out: str = "picks") -> int:
    return main(["select", *flags, "-n", str(K), "--strategy", strategy, "--out", out])


CASES = (
    "pending",
    "exclude",
    "clusters",
    "costs",
    "eval data",
    "lamb auto",
    "prior",
    "class weight",
    "balanced",
    "uncovered",
    "recommended",
    "logdet",
    "top class",
)


@pytest.mark.parametrize("kind", ["table", "embeddings"])
@pytest.mark.parametrize("name", CASES)
def test_every_option_picks_what_the_selector_does(here: Path, name: str, kind: str) -> None:
    data = Data()
    every = cases(data, name)
    assert tuple(every) == CASES
    flags, parameters, arguments = every[name]
    expected = data.query(parameters, arguments)
    assert expected != data.query({}, {})
    if kind == "embeddings":
        if name == "class weight":
            assert select(*EMBEDDINGS, *flags) == 2
            return
        if name == "top class":  # of a head without a network: whether that class is right
            expected = data.top_class()
        renamed = {"usual.csv": "rows.csv", "deployed.csv": "deployed.npz"}
        flags = [renamed.get(flag, flag) for flag in flags]
        assert select(*EMBEDDINGS, *flags) == 0
        found = [data.free.index(int(row["row"])) for row in rows(Path("picks/picks.csv"))]
    else:
        assert select(*table_flags(here), *flags) == 0
        found = [data.free.index(int(row["row"]) - 1) for row in rows(Path("picks/picks.csv"))]
    assert found == expected


def test_columns_that_are_asked_for_are_no_features(here: Path) -> None:
    """A network of five columns takes a table of seven, two of which say what is asked."""
    data = Data()
    data.write({"video": ["v"] * N, "cost": [2.0] * N})
    flags = ["--cluster-column", "video", "--max-per-cluster", str(K), "--cost-column", "cost"]
    assert select(*table_flags(here), *flags) == 0


@pytest.mark.parametrize("strategy", ["random", "entropy", "margin", "coreset", "badge"])
def test_other_strategies_leave_out_what_is_pending_or_excluded(here: Path, strategy: str) -> None:
    data = Data()
    data.write({})
    assert select(*table_flags(here), strategy=strategy, out="first") == 0
    first = [row["row"] for row in rows(Path("first/picks.csv"))]
    Path("half.txt").write_text("\n".join(first[:4]) + "\n\n")
    lists = ["--pending", "first/picks.csv"]
    assert select(*table_flags(here), *lists, strategy=strategy, out="second") == 0
    both = ["--pending", "half.txt", "--exclude", "second/picks.csv"]
    assert select(*table_flags(here), *both, strategy=strategy, out="third") == 0
    second, third = (
        {row["row"] for row in rows(Path(name, "picks.csv"))} for name in ("second", "third")
    )
    assert len(second) == len(third) == K
    assert second.isdisjoint(first) and third.isdisjoint([*first[:4], *second])


def test_pending_samples_are_centres_of_coreset(here: Path) -> None:
    """What is at the annotators is as good as labeled to a strategy that keeps its distance."""
    data = Data()
    data.write({})
    assert select(*table_flags(here), strategy="coreset", out="first") == 0
    pending = ["--pending", "first/picks.csv"]
    assert select(*table_flags(here), *pending, strategy="coreset", out="second") == 0
    centres = data.values[data.known].double()
    found = [
        [int(row["row"]) - 1 for row in rows(Path(name, "picks.csv"))]
        for name in ("first", "second")
    ]
    left, expected = list(data.free), []
    for _ in range(2 * K):
        nearest = torch.cdist(data.values[left].double(), centres).min(1).values
        expected.append(left.pop(int(nearest.argmax())))
        centres = torch.cat([centres, data.values[expected[-1:]].double()])
    assert found[0] + found[1] == expected


@pytest.mark.parametrize("kind", ["table", "embeddings"])
def test_the_hybrid_takes_neither_half_from_what_is_barred(here: Path, kind: str) -> None:
    data = Data()
    data.write({})
    given = table_flags(here) if kind == "table" else EMBEDDINGS
    assert select(*given, strategy="fishermask_entropy", out="first") == 0
    lists = ["--pending", "first/picks.csv"]
    assert select(*given, *lists, strategy="fishermask_entropy", out="second") == 0
    found = [{row["row"] for row in rows(Path(n, "picks.csv"))} for n in ("first", "second")]
    assert len(found[1]) == K and found[0].isdisjoint(found[1])


def images() -> None:
    for number in range(12):
        write_image(Path("new") / f"shelf {number % 2}" / f"{number:02}.png", number)
    for number in range(4):
        write_image(Path("old") / CLASSES[number % 2] / f"{number}.png", 100 + number)


def folder_flags(here: Path) -> list[str]:
    flags = ["--unlabeled", "new", "--labeled", "old", "--image-size", "12", "--classes", *CLASSES]
    return [*flags, "--model", f"options_{here.name}:images"]


def test_folders_take_lists_of_paths(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images()
    given = [*folder_flags(here), "--n-parameters", "200", "--no-keep-head"]
    tail = ["-n", "4"]
    assert main(["select", *given, *tail, "--out", "out/first"]) == 0
    first = [row["path"] for row in rows(Path("out/first/picks.csv"))]
    lists = ["--pending", "out/first/picks.csv"]
    assert main(["select", *given, *lists, *tail, "--out", "second"]) == 0
    second = [row["path"] for row in rows(Path("second/picks.csv"))]
    assert len({*first, *second}) == 8
    # By paths from the list's own folder, and one that has been labeled since.
    Path("lists").mkdir()
    texts = [f"../{path}" for path in first] + [str(Path("old/ant/0.png").resolve())]
    Path("lists/waiting.txt").write_text("\n".join(texts))
    lists = ["--pending", "lists/waiting.txt"]
    capsys.readouterr()
    assert main(["select", *given, *lists, *tail, "--out", "third"]) == 0
    assert [row["path"] for row in rows(Path("third/picks.csv"))] == second
    assert "waiting.txt: 1 are labeled already, and count as that" in capsys.readouterr().err


def test_labels_of_images_count_where_one_cannot_be_read(here: Path) -> None:
    """class_weight counts the labels of those that can be read, each its own."""
    images()
    for number in range(5):
        write_image(Path("old") / "cow" / f"{number}.png", 200 + number)
    Path("old/ant/0.png").write_bytes(b"\x89PNG\r\n\x1a\nnone")
    flags = [*folder_flags(here), "--class-weight", "balanced", "-n", "4", "--strategy", "bait"]
    assert main(["select", *flags]) == 0
    found = [row["path"] for row in rows(Path("picks/picks.csv"))]
    from fishermask_fast.labeling import load_trained, read_folder

    pool = read_folder("new", "old", image_size=12)
    model = load_trained(f"options_{here.name}:images").model
    selector = FisherMaskSelector(model, mask="head", backward_steps=1, class_weight="balanced")
    labels = [0, 1, 1, 2, 2, 2, 2, 2]
    expected = selector.query(pool.unlabeled, 4, pool.labeled, labels=labels, progress=False)
    assert found == [str(pool.names[i]) for i in expected.indices.tolist()]


REFUSED: list[tuple[str, list[str], str]] = [
    ("table", ["--pending", "none.csv"], "--pending must be there; there is no none.csv"),
    ("table", ["--pending", "data.csv"], "data.csv must have a column row; it has a, b"),
    ("table", ["--pending", "bad.csv"], "--pending bad.csv, row 2: '999' is no row of the pool"),
    ("table", ["--exclude", "bad.txt"], "--exclude bad.txt, line 3: 'x' is no row of the pool"),
    ("table", ["--exclude", "twice.csv"], "twice.csv, row 3: 1 stands at twice.csv, row 1 already"),
    ("table", ["--exclude", "all.csv"], "n must be at most the 4 samples that --pending and"),
    ("table", ["--cluster-column", "x"], "--cluster-column and --max-per-cluster go together"),
    ("table", ["--max-per-cluster", "1"], "--cluster-column and --max-per-cluster go together"),
    ("table", ["--cluster-column", "x", "--max-per-cluster", "1"], "must be a column of data.csv"),
    ("table", ["--cluster-column", "video", "--max-per-cluster", "0"], "max_per_cluster must be"),
    ("table", ["--cluster-column", "some", "--max-per-cluster", "1"], "some is empty; each"),
    ("table", ["--cost-column", "label"], "--cost-column must be another column than --label"),
    ("table", ["--cost-column", "bad"], "row 1: bad must be a cost, a number above 0; got '-3.0'"),
    ("table", ["--eval-data", "none.csv"], "--eval-data must be there; there is no none.csv"),
    ("table", ["--eval-data", "narrow.csv"], "narrow.csv must have the columns of data.csv"),
    ("table", ["--eval-data", "deployed.csv", "--criterion", "logdet"], "--eval-data plays no"),
    ("table", ["--lamb", "half"], "lamb"),
    ("table", ["--lamb", "auto", "--prior-precision", "1"], "lamb and prior_precision are two"),
    ("folders", ["--cost-column", "cost"], "folders have none"),
    ("folders", ["--pending", "bad.txt"], "'1' is no image of the pool"),
    ("folders", ["--eval-data", "nowhere"], "nowhere"),
    ("embeddings", ["--cost-column", "x"], "must be an array of pool.npz beside the embeddings"),
    ("embeddings", ["--pending", "names.csv"], "names.csv, row 2: 'nobody' is no row of the pool"),
    ("embeddings", ["--eval-data", "narrow.npz"], "narrow.npz: embeddings must be (N, 6)"),
    ("embeddings", ["--class-weight", "balanced"], "class_weight needs labels"),
]  # fmt: skip


@pytest.mark.parametrize("kind,flags,text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused_by_name(
    here: Path,
    kind: str,
    flags: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Data()
    bad: list[Any] = [-3.0] * N
    some: list[Any] = ["v", "v", "v", *[""] * (N - 3)]
    every = {"video": ["v"] * N, "bad": bad, "some": some}
    data.write({name: values for name, values in every.items() if name in flags})
    images()
    save(Path("bad.csv"), ["row"], [[1], [999]])
    save(Path("twice.csv"), ["row"], [[1], [2], [1]])
    save(Path("all.csv"), ["row"], [[i + 1] for i in data.free[:-4]])
    save(Path("names.csv"), ["name"], [["s0"], ["nobody"]])
    save(Path("narrow.csv"), ["a", "b"], [[1, 2]])
    Path("bad.txt").write_text("1\n\nx\n")
    np.savez("narrow.npz", embeddings=np.ones((3, 2)), probabilities=np.full((3, 3), 1 / 3))
    given = {"table": table_flags, "folders": folder_flags, "embeddings": lambda _: EMBEDDINGS}
    before = sorted(here.iterdir())

    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("fishermask_fast.selector.query.masked_gradients", never)
    monkeypatch.setattr("fishermask_fast.selector.query.fisher_diagonal", never)
    assert select(*given[kind](here), *flags) == 2
    assert text in capsys.readouterr().err
    assert sorted(path for path in here.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize("flag", ["costs", "clusters", "eval data"])
@pytest.mark.parametrize("strategy", ["random", "entropy", "coreset", "fishermask_entropy"])
@pytest.mark.parametrize("kind", ["table", "embeddings"])
def test_what_a_strategy_has_no_meaning_for(
    here: Path, kind: str, strategy: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = cases(Data(), flag)[flag][0]
    given = EMBEDDINGS if kind == "embeddings" else table_flags(here)
    if kind == "embeddings":
        flags = [each.replace("deployed.csv", "deployed.npz") for each in flags]
    asked = select(*given, *flags, strategy=strategy)
    if flag == "eval data" and strategy == "fishermask_entropy":
        assert asked == 0
        return
    assert asked == 2
    assert f"not defined for strategy {strategy}" in capsys.readouterr().err


def test_options_that_nobody_reads_are_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    Data().write({})
    assert select(*table_flags(here), "--criterion", "logdet", strategy="entropy") == 0
    assert "strategy entropy does not read criterion" in caplog.text
    caplog.clear()
    assert select(*EMBEDDINGS, "--fisher-samples", "9", out="again") == 0
    assert "strategy bait does not read fisher_samples" in caplog.text


def test_auto_in_a_file_of_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that a flag takes is a value of its key as well."""
    Path("run.toml").write_text(
        'lamb = "auto"\nstrategy = ["bait"]\npool-size = 40\ntest-size = 20\ninitial = 10\n'
        'per-round = 5\nrounds = 1\nepochs = 1\nmodel = "mlp_small"\nout = "out"\n'
    )
    assert main(["run", "run.toml"]) == 0
    assert '"lamb": "auto"' in Path("out/config.json").read_text()
    Path("run.toml").write_text('prior-precision = "half"\n')
    assert main(["run", "run.toml"]) == 2
    assert "prior-precision must be a number or auto; got 'half'" in capsys.readouterr().err
