"""``fishermask-fast select``: from folders or a CSV and a checkpoint to picks, or to nothing."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fishermask_fast import FisherMaskSelector
from fishermask_fast.cli import main
from fishermask_fast.datasets import samples
from fishermask_fast.labeling import load_trained
from fishermask_fast.labeling import output as output_room
from fishermask_fast.models.networks import build_model
from fishermask_fast.options import PHOTO_MEAN, PHOTO_STD


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images to pick from, six labeled ones of two classes, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        write_image(Path("new") / f"shelf {number % 2}" / f"{number:02}.png", number)
    for number in range(6):
        write_image(Path("old") / ("cat", "dog")[number % 2] / f"{number}.png", 100 + number)
    model = build_model("cnn_small", 2, (3, 12, 12), seed=1)
    torch.save(model.state_dict(), "net.pt")
    return tmp_path


def words(text: str) -> list[str]:
    return text.split()


BASE = words(
    "select --unlabeled new --labeled old --model cnn_small --checkpoint net.pt --image-size 12 "
    "--fisher-samples 8 --out out/picks"
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_folders_to_picks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "-n", "4"]) == 0
    out = here / "out" / "picks"
    assert {path.name for path in out.iterdir()} == {
        "picks.csv",
        "picks.png",
        "picks.svg",
        "label_studio.json",
        "label_studio.xml",
        "pool.csv",
    }
    assert [path.name for path in out.parent.iterdir()] == ["picks"]
    found = rows(out / "picks.csv")
    assert list(found[0]) == ["path", "rank", "score", "predicted", "probability"]
    assert [row["rank"] for row in found] == ["1", "2", "3", "4"]

    paths = sorted(Path("new").rglob("*.png"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (PHOTO_MEAN, PHOTO_STD))

    def read(some: list[Path]) -> torch.Tensor:
        images = [
            torch.tensor(list(Image.open(p).convert("RGB").tobytes())).view(12, 12, 3) for p in some
        ]
        return (torch.stack(images).permute(0, 3, 1, 2) / 255 - mean) / std

    model = load_trained("cnn_small", Path("net.pt"), shape=(3, 12, 12)).model
    pool, labeled = read(paths), read(sorted(Path("old").rglob("*.png")))
    selector = FisherMaskSelector(model, fisher_samples=8)
    expected = selector.query(pool, 4, labeled, progress=False)
    assert [row["path"] for row in found] == [str(paths[i]) for i in expected.indices]
    assert [float(row["score"]) for row in found] == pytest.approx(expected.scores, rel=1e-4)
    best = model(pool[expected.indices]).softmax(1).max(1)
    assert [row["predicted"] for row in found] == [("cat", "dog")[i] for i in best.indices]
    probabilities = [float(row["probability"]) for row in found]
    assert probabilities == pytest.approx(best.values.tolist(), abs=6e-4)

    tasks = json.loads((out / "label_studio.json").read_text())
    assert [task["data"]["path"] for task in tasks] == [row["path"] for row in found]
    first = tasks[0]
    name = found[0]["path"].replace(" ", "%20")
    assert first["data"]["image"] == f"/data/local-files/?d={name}"
    assert first["predictions"][0]["result"][0]["value"]["choices"] == [found[0]["predicted"]]
    # Its storages must lie strictly below its root.
    said = capsys.readouterr().out
    assert f"LOCAL_FILES_DOCUMENT_ROOT={here}\n" in said
    assert f"storage of {here / 'new'}\n" in said


def test_a_csv_gives_the_same_picks(here: Path) -> None:
    assert main([*BASE, "-n", "3"]) == 0
    lines = [[str(path), ""] for path in sorted(Path("new").rglob("*.png"))]
    lines += [[str(path), path.parent.name] for path in sorted(Path("old").rglob("*.png"))]
    with Path("images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *lines])
    arguments = [*BASE[:1], "--csv", "images.csv", *BASE[5:-1], "again", "-n", "3"]
    assert main(arguments) == 0
    assert rows(Path("again") / "picks.csv") == rows(Path("out/picks/picks.csv"))


@pytest.mark.parametrize("largest", [0, 2**30])
def test_images_that_cannot_be_read_are_skipped_and_listed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(samples, "LARGEST_DECODED", largest)
    assert main([*BASE, "-n", "5", "--strategy", "margin"]) == 0
    Path("new/aaa.jpg").write_text("no image")
    whole = Path("new/shelf 0/00.png").read_bytes()
    Path("old/cat/zzz.png").write_bytes(whole[: len(whole) // 2])
    Path("new/notes.txt").write_text("not an image either, and that is said")
    arguments = [*BASE[:-1], "again", "-n", "5", "--strategy", "margin"]
    assert main(arguments) == 0
    assert rows(here / "again" / "picks.csv") == rows(here / "out" / "picks" / "picks.csv")
    skipped = rows(here / "again" / "skipped.csv")
    assert [row["path"] for row in skipped] == [
        "new/notes.txt",
        "new/aaa.jpg",
        "old/cat/zzz.png",
    ]
    assert "skipped  new/aaa.jpg" in capsys.readouterr().err
    assert main([*BASE[:-1], "more", "-n", "13"]) == 2
    assert "n must be at most the 12 unlabeled images; got 13" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["new", "old"])
def test_folders_of_which_no_image_can_be_read_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    images = sorted(Path(which).rglob("*.png"))
    for path in images:
        path.write_text("no image")
    assert main([*BASE, "-n", "3"]) == 2
    said = capsys.readouterr().err
    name = {"new": "unlabeled", "old": "labeled"}[which]
    assert f"none of the {len(images)} {name} images can be read; {images[0]}" in said
    assert not Path("out").exists()


@pytest.mark.parametrize("strategy", ["random", "coreset", "fishermask_entropy"])
def test_other_strategies_without_labeled_images(here: Path, strategy: str) -> None:
    arguments = [*BASE[:3], *BASE[5:], "-n", "3", "--strategy", strategy, "--classes", "a", "b"]
    assert main(arguments) == 0
    found = rows(here / "out" / "picks" / "picks.csv")
    assert len({row["path"] for row in found}) == 3
    assert all((row["score"] == "") == (strategy == "random") for row in found)
    assert {row["predicted"] for row in found} <= {"a", "b"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-n 0", "n must be at least 1; got 0"),
        ("-n 14", "n must be at most the 12 unlabeled images; got 14"),
        ("-n 2 --unlabeled nosuch", "--unlabeled must be there; there is no nosuch"),
        ("-n 2 --labeled net.pt", "labeled must be a folder of class folders; got net.pt"),
        ("-n 2 --labeled new/nothing", "--labeled must be there; there is no new/nothing"),
        ("-n 2 --unlabeled old", "old holds no images that are not labeled"),
        ("-n 2 --csv net.pt", "one of the three"),
        ("-n 2 --checkpoint nosuch.pt", "--checkpoint must be there; there is no nosuch.pt"),
        ("-n 2 --checkpoint new/shelf&0/00.png", "cannot read new/shelf"),
        ("-n 2 --model resnet18", "net.pt is no checkpoint of resnet18"),
        ("-n 2 --model nosuch", "model must be one of cnn_small"),
        ("-n 2 --classes a b c", "tells 2 classes apart, but there are 3 names"),
        ("-n 2 --rank 3", "rank must be at most the 2 classes; got 3"),
        ("-n 2 --std 1 0 1", "std must be finite and above 0; got 1.0 0.0 1.0"),
        ("-n 2 --std 1 inf 1", "std must be finite and above 0; got 1.0 inf 1.0"),
        ("-n 2 --mean 0 nan 1", "mean must be finite; got 0.0 nan 1.0"),
        ("-n 2 --classes a a", "classes must differ; got a, a"),
        ("-n 2 --out net.pt/deep/picks", "--out must be a path below folders; "),
        ("-n 2 --image-size 0", "image_size must be at least 1; got 0"),
        ("-n 2 --out new", "new exists already"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    before = sorted(here.rglob("*"))
    assert main([*BASE, *(flag.replace("&", " ") for flag in flags.split())]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,path\ncat\n,new/b.png\n", "images.csv, row 1 has no path"),
        ("path,label\nnew/a.png,\n,cat\n", "images.csv, row 2 has no path"),
        ("path\nnew/a.png\nnew/b.png\n./new/a.png\n", "rows 1 and 3 are both ./new/a.png"),
        ("path,label\nnew/a.png,cat\nnew/a.png,\n", "rows 1 and 2 are both new/a.png"),
        ("path,label\nnew/a.png,cat\n", "must have rows without a label"),
        (
            "file,label\nnew/a.png,cat\n",
            "or columns of numbers; it has file, label",
        ),
        ("path;label\nnew/a.png;\n", "commas between its columns; line 1 has semicolons"),
        ("", "must have a column path (and label) or others; it has no rows"),
    ],
)
def test_csv_files_that_do_not_fit_are_named(
    here: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    Path("images.csv").write_text(content)
    assert main([*BASE[:1], "--csv", "images.csv", *BASE[5:], "-n", "1"]) == 2
    assert message in capsys.readouterr().err


def test_paths_that_lead_out_of_the_csvs_folder_are_below_the_root(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lists").mkdir()
    Path("lists/images.csv").write_text(f"path\n../new/shelf 0/00.png\n{here}/old/cat/0.png\n")
    assert main([*BASE[:1], "--csv", "lists/images.csv", *BASE[5:], "-n", "2"]) == 0
    tasks = json.loads(Path("out/picks/label_studio.json").read_text())
    found = {task["data"]["image"] for task in tasks}
    paths = ("new/shelf%200/00.png", "old/cat/0.png")
    assert found == {f"/data/local-files/?d={here.name}/{path}" for path in paths}
    assert f"LOCAL_FILES_DOCUMENT_ROOT={here.parent}\n" in capsys.readouterr().out


def test_odd_names_are_written_as_they_are(here: Path) -> None:
    names = [b'a,"b".png', b"a\nb.png", "\u00fc#?%.png".encode(), b"\xff.png", b"=1+1.png"]
    for number, name in enumerate(names):
        Path("odd").mkdir(exist_ok=True)
        write_image(Path("plain.png"), number)
        Path("plain.png").rename(Path("odd", os.fsdecode(name)))
    Path("odd", os.fsdecode(b"\xfe.jpg")).write_text("no image")
    flags = ["--unlabeled", "odd", "--classes", "$x^{$", "b_$", "-n", "5", "--strategy", "random"]
    assert main([*BASE[:1], *BASE[5:], *flags]) == 0
    with Path("out/picks/picks.csv").open(newline="", errors="surrogateescape") as file:
        found = {os.fsencode(row["path"]) for row in csv.DictReader(file)}
    assert found == {b"odd/" + name for name in names}
    tasks = json.loads(Path("out/picks/label_studio.json").read_text())
    assert "/data/local-files/?d=odd/%FF.png" in [task["data"]["image"] for task in tasks]
    assert b"odd/\xfe.jpg" in Path("out/picks/skipped.csv").read_bytes()


def test_of_a_long_strip_only_the_middle_is_read(here: Path) -> None:
    """At 224 pixels the whole of it would be 2 x 3 GB."""
    Image.new("RGB", (1, 60_000), (9, 8, 7)).save("strip.png")
    image = samples.FolderImages(["strip.png"], 224)[0]
    assert image.shape == (3, 224, 224)
    assert image.flatten(1).unique(dim=1).tolist() == [[9], [8], [7]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "F"])
def test_images_of_every_mode_are_read(here: Path, mode: str) -> None:
    Image.new(mode, (9, 20)).save("image.tiff")
    assert samples.FolderImages(["image.tiff"], 8)[0].shape == (3, 8, 8)


def test_a_failure_while_writing_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output_room, "image_grid", fail)
    assert main([*BASE[:-1], "picks", "-n", "2"]) == 130
    assert not list(here.glob("*picks*"))
    assert capsys.readouterr().err == "fishermask-fast: interrupted; nothing half-written\n"


@pytest.mark.parametrize("wrap", ["plain", "nested", "parallel", "lightning"])
def test_checkpoints_of_many_makers_are_read(here: Path, wrap: str) -> None:
    state = torch.load("net.pt")
    saved = {
        "plain": state,
        "nested": {"model": state, "epoch": 3},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "lightning": {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    }[wrap]
    torch.save(saved, "wrapped.pt")
    model = load_trained("cnn_small", Path("wrapped.pt"), shape=(3, 12, 12)).model
    assert not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_checkpoints_that_are_none_are_named(here: Path) -> None:
    torch.save([1, 2], "list.pt")
    with pytest.raises(ValueError, match="must hold a state_dict; got list"):
        load_trained("cnn_small", Path("list.pt"), shape=(3, 12, 12))
    state = torch.load("net.pt")
    state["0.weight"] = state["0.weight"][:, :1]
    torch.save(state, "grey.pt")
    with pytest.raises(ValueError, match=r"is no checkpoint of cnn_small: .*\s.*size mismatch"):
        load_trained("cnn_small", Path("grey.pt"), shape=(3, 12, 12))


def test_several_labels(here: Path) -> None:
    """Labels each for itself: picks by their likelihood, and every label above a half."""
    assert main([*BASE, "-n", "12", "--likelihood", "bernoulli", "--strategy", "bait"]) == 0
    found = rows(Path("out/picks/picks.csv"))
    paths = [str(path) for path in sorted(Path("new").rglob("*.png"))]
    mean, std = (torch.tensor(v)[:, None, None] for v in (PHOTO_MEAN, PHOTO_STD))

    def read(folder: str) -> torch.Tensor:
        some = sorted(Path(folder).rglob("*.png"))
        images = [torch.tensor(list(Image.open(p).tobytes())).view(12, 12, 3) for p in some]
        return (torch.stack(images).permute(0, 3, 1, 2) / 255 - mean) / std

    model, pool = load_trained("cnn_small", Path("net.pt"), shape=(3, 12, 12)).model, read("new")
    selector = FisherMaskSelector(model, mask="head", likelihood="bernoulli", backward_steps=1)
    expected = selector.query(pool, 12, read("old"), progress=False)
    assert [row["path"] for row in found] == [paths[i] for i in expected.indices]
    p = model(pool[expected.indices]).sigmoid()
    names = [
        [name for name, q in zip(("cat", "dog"), row, strict=True) if q > 0.5] for row in p.tolist()
    ]
    assert [row["predicted"] for row in found] == ["; ".join(each) for each in names]
    assert [float(row["probability"]) for row in found] == pytest.approx(
        p.amax(1).tolist(), abs=6e-4
    )
    tasks = json.loads(Path("out/picks/label_studio.json").read_text())
    assert [t["predictions"][0]["result"][0]["value"]["choices"] for t in tasks] == names


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--likelihood gaussian", "likelihood must be categorical or bernoulli"),
        ("--likelihood bernoulli --strategy entropy", "entropy is for one class a sample"),
    ],
)
def test_likelihoods_that_select_cannot_take(
    flags: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, "-n", "2", *words(flags)]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()
