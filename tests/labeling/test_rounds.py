"""From one round of picks to the next: the same server, its pages, its labels."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from PIL import Image
from test_select import rows, write_image

from fishermask_fast.cli import main
from fishermask_fast.models import build_model

NET = ["--model", "cnn_small", "--checkpoint", "net.pt", "--image-size", "12"]
BROWSERS = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP",
            ".jfif": "JPEG"}  # fmt: skip
NONE = {".tif": "TIFF", ".ppm": "PPM", ".jp2": "JPEG2000", ".tga": "TGA", ".pcx": "PCX"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(build_model("cnn_small", 2, (3, 12, 12), seed=1).state_dict(), "net.pt")
    for number in range(4):
        write_image(Path("photos/old") / "ab"[number % 2] / f"{number}.png", 100 + number)
    return tmp_path


def select(*flags: str) -> int:
    return main(["select", "--strategy", "margin", *NET, *flags])


def label(tasks: Path, export: Path, several: bool = False) -> None:
    """What Label Studio's JSON export has of tasks that are all labeled."""
    found = json.loads(tasks.read_text())
    for place, task in enumerate(found):
        choices = ["a", "b"] if several and not place else ["ab"[place % 2]]
        value = {"choices": choices}
        task["annotations"] = [{"result": [{"type": "choices", "value": value}]}]
    export.write_text(json.dumps(found))


def images_of(tasks: Path) -> dict[str, str]:
    return {each["data"]["file"]: each["data"]["image"] for each in json.loads(tasks.read_text())}


def test_a_second_round_is_shown_by_the_first_rounds_server(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        write_image(Path("photos/new") / ("only" if number else "once") / f"{number}.png", number)
    flags = ["--unlabeled", "photos/new", "--labeled", "photos/old"]
    assert select(*flags, "-n", "3", "--out", "one") == 0
    root = here / "photos"
    assert f"LOCAL_FILES_DOCUMENT_ROOT={root}\n" in capsys.readouterr().out
    label(Path("one/label_studio.json"), Path("export.json"))
    assert main(["import-labels", "export.json"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith(f"select --csv labels.csv --document-root {root} ...")
    more = said.split("select ")[1].split()[:-1]
    assert select(*more, "-n", "3", "--out", "two") == 0
    assert f"storage of {root / 'new'}" in capsys.readouterr().out
    for file, url in images_of(Path("two/label_studio.json")).items():
        assert root / url.removeprefix("/data/local-files/?d=") == Path(file)
    assert len(rows(Path("two/picks.csv"))) == 3


@pytest.mark.parametrize("root", ["photos/new", "elsewhere"])
def test_a_root_that_cannot_show_the_images_is_refused_before_work(
    here: Path, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    write_image(Path("photos/new/1.png"), 1)
    flags = ["--unlabeled", "photos/new", "-n", "1", "--document-root", root]
    assert select(*flags) == 2
    assert "document_root must lie above the folders" in capsys.readouterr().err
    assert not Path("picks").exists()


@pytest.mark.parametrize("wide", [False, True])
def test_images_that_no_browser_shows_have_copies(
    here: Path, capsys: pytest.CaptureFixture[str], wide: bool
) -> None:
    folder = Path("photos/new")
    for number, (ending, form) in enumerate({**BROWSERS, **NONE}.items()):
        write_image(folder / f"{number}.png", number)
        image = Image.open(folder / f"{number}.png")
        image.load()
        (folder / f"{number}.png").unlink()
        image.save(folder / f"{number}{ending}", form)
    deep = torch.arange(144).view(12, 12).mul(257).to(torch.uint16)
    Image.fromarray(deep.numpy()).save(folder / "deep.tif")
    count = len(BROWSERS) + len(NONE) + 1
    more = ["--document-root", str(here)] if wide else []
    assert select("--unlabeled", str(folder), "-n", str(count), *more) == 0
    said = capsys.readouterr().out
    assert f"{len(NONE) + 1} of formats that no browser shows have PNG copies" in said
    assert f"{here / 'photos/new'}, {here / 'picks/shown'}" in said
    for file, url in images_of(Path("picks/label_studio.json")).items():
        path = here / unquote(url.split("?d=")[1])
        assert (path == Path(file)) == (Path(file).suffix in BROWSERS), file
        with Image.open(path) as image:
            assert image.format in BROWSERS.values()
            assert image.size == (12, 12)
    shown = images_of(Path("picks/label_studio.json"))[str(here / folder / "deep.tif")]
    with Image.open(here / shown.split("?d=")[1]) as copy:
        assert copy.tobytes()[::3] == bytes(range(144))
    label(Path("picks/label_studio.json"), Path("export.json"))
    assert main(["import-labels", "export.json"]) == 0
    paths = {row["path"] for row in rows(Path("labels.csv"))}
    assert paths == {str(here / path) for path in folder.iterdir()}


def test_copies_that_a_server_cannot_reach_are_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(Path("photos/new/1.tif"), 1)
    flags = ["--unlabeled", "photos/new", "-n", "1", "--document-root", "photos"]
    assert select(*flags) == 0
    assert "outside the document root: it cannot show these" in capsys.readouterr().out
    assert list(images_of(Path("picks/label_studio.json")).values())[0].endswith("new/1.tif")


def test_several_labels_of_a_sample_are_several_classes(here: Path) -> None:
    for number in range(5):
        write_image(Path("photos/new") / f"{number}.png", number)
    flags = ["-n", "2", "--likelihood", "bernoulli", "--strategy", "random"]
    assert select("--unlabeled", "photos/new", "--labeled", "photos/old", *flags) == 0
    label(Path("picks/label_studio.json"), Path("export.json"), several=True)
    assert main(["import-labels", "export.json"]) == 0
    assert "a; b" in {row["label"] for row in rows(Path("labels.csv"))}
    assert select("--csv", "labels.csv", "--out", "two", *flags) == 0
    text = Path("two/label_studio.xml").read_text()
    assert '"a"' in text and '"b"' in text and "a; b" not in text
