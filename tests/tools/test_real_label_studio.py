"""The whole circle with the real Label Studio: picks in, every image shown, labels out, next picks.

Run by ``make check-tools``; LABEL_STUDIO is the folder of its environment, PICTURES where pictures
of its pages are kept.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from label_studio_server import PASSWORD, USER, Server, serving
from PIL import Image
from torch import nn

from fishermask_fast.cli import main
from fishermask_fast.models import build_model

pytestmark = pytest.mark.tools
HERE = Path(__file__).parent
EXPORTS = {"JSON": "json", "JSON_MIN": "json", "CSV": "csv"}
CLASSES = ["cat", "a \"b\" <c> & 'd'", "\u00fc \u56f3"]
NAMES = (
    """
plain.png, with space.jpg, \u00fcml\u00e4ut \u56f3.png, hash#and?.png, plus+and&.png,
percent%20.png, quote'".png, semi;colon.png, deep.tiff, b.webp, c.gif, d.bmp, e.jfif,
f.avif, UPPER.JPEG, map.ppm, =formula.png
""".replace(",\n", ", ")
    .strip()
    .split(", ")
)
SHOWN = {
    "images": "[class*=image-element]",
    "texts": "[class*=richtext__line]",
    "table": ".ant-table-cell",
}

OWN = """
import torch
from torch import nn

def words():
    torch.manual_seed(3)
    def prepare(texts):
        return torch.tensor([[float(len(t)), float(len(t.split()))] for t in texts]) / 10
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), prepare
"""


# Where they are before a test goes to another folder.
STUDIO = Path(os.environ.get("LABEL_STUDIO", "")).absolute()
PICTURES = Path(os.environ["PICTURES"]).absolute() if os.environ.get("PICTURES") else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("circle")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(STUDIO / "bin/label-studio", folder / "server", folder / "photos") as found:
        yield found


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    Path("own_words.py").write_text(OWN)
    return folder


def digit(number: int) -> Image.Image:
    from sklearn.datasets import load_digits

    values = 255 - load_digits().images[number] * 15
    return Image.fromarray(values.astype(np.uint8)).convert("RGB").resize((224, 224))


def write_photos() -> None:
    """Twenty images with odd names and in odd formats, three linked ones, six labeled ones."""
    for number, name in enumerate(NAMES):
        path = Path("photos/new", ("shelf 1", "Regal \u00fc")[number % 2], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        digit(number).save(path, "JPEG" if path.suffix == ".jfif" else None)
    grey = np.asarray(digit(20).convert("L")).astype(np.uint16) * 257
    for name in ("deep16.png", "deep16.tif"):
        Image.fromarray(grey).save(Path("photos/new", name))
    Path("elsewhere/far").mkdir(parents=True)
    for name in ("one.png", "far/two.png"):
        digit(21 + len(name)).save(Path("elsewhere", name))
    Path("photos/new/linked.png").symlink_to(Path("elsewhere/one.png").absolute())
    Path("photos/new/linked folder").symlink_to(Path("elsewhere/far").absolute())
    for number in range(6):
        path = Path("photos/old", CLASSES[number % 3], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        digit(40 + number).save(path)
    torch.save(build_model("cnn_small", 3, (3, 32, 32), seed=1).state_dict(), "net.pt")


def write_texts() -> None:
    texts = [
        "one two three",
        'four <b>five</b> & "six"',
        "line one\nline two",
        "\u00fcml\u00e4ut \u56f3",
        "http://a.b/x.png",
        "=sum(a)",
        "plain text",
    ]
    with Path("texts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "class"])
        writer.writerows([i, f"known {i}", label] for i, label in enumerate(CLASSES))
        writer.writerows([3 + i, text, ""] for i, text in enumerate(texts))


def write_rows() -> None:
    with Path("rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y, or z", "rank", "class"])
        writer.writerows([i / 3, i * i - 4, -i, label] for i, label in enumerate(CLASSES))
        writer.writerows([i / 7, 3 * i - 4, i, ""] for i in range(8))
    torch.manual_seed(0)
    net = build_model("mlp_small", 3, (3,), seed=1)
    assert isinstance(net, nn.Module)
    torch.save(net.state_dict(), "rows.pt")


WRITERS = {"images": write_photos, "texts": write_texts, "table": write_rows}
IMAGES = ["--model", "cnn_small", "--checkpoint", "net.pt", "--image-size", "32"]
TEXTS = ["--model", "own_words:words", "--likelihood", "bernoulli", "--strategy", "random"]
TABLE = ["--model", "mlp_small", "--checkpoint", "rows.pt", "--label-column", "class"]
FIRST = {
    "images": ["--unlabeled", "photos/new", "--labeled", "photos/old", *IMAGES],
    "texts": ["--csv", "texts.csv", *TEXTS, "--label-column", "class"],
    "table": ["--csv", "rows.csv", *TABLE],
}
NEXT = {"images": IMAGES, "texts": TEXTS, "table": TABLE[:4]}


def select(*flags: str) -> int:
    return main(["select", "--fisher-samples", "4", *flags])


def storages(said: str) -> list[Path]:
    """Those that the command names, and that its root is the one the server was started with."""
    root, after = said.split("LOCAL_FILES_DOCUMENT_ROOT=")[1].split("\n", 1)
    assert Path(root) == Path("photos").absolute()
    return [Path(each) for each in after.split("storage of ")[1].split("\n")[0].split(", ")]


def labels_of(path: Path, key: str) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row[key]: row["label"] for row in csv.DictReader(file)}


def look(server: Server, pages: Any, images: Sequence[str], folder: Path) -> list[str]:
    """What is wrong with pages in a browser."""
    pictures = PICTURES or folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    python = STUDIO / "bin/python"
    done = subprocess.run(
        [python, HERE / "labeling_page.py", server.address, USER, PASSWORD, pictures],
        input=json.dumps({"pages": pages, "images": images}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_picks_go_in_and_labels_come_back(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    WRITERS[kind]()
    n = {"images": len(NAMES) + 4, "texts": 7, "table": 8}[kind] - 1
    out = Path(f"picks {kind}")
    where = Path("photos", out) if kind == "images" else out
    assert select(*FIRST[kind], "-n", str(n), "--out", str(where)) == 0
    said = capsys.readouterr().out
    folders = storages(said) if kind == "images" else []
    project = server.project(
        where / "label_studio.xml", where / "label_studio.json", folders, f"picks of {kind}"
    )
    tasks = server.tasks(project)
    assert [task["data"]["rank"] for task in tasks] == list(range(1, n + 1))
    for task in tasks:
        assert task["predictions"][0]["model_version"] == NEXT[kind][1]
    for task in tasks:
        if kind == "images":
            check_image(server, task)
    pages = [(project, task["id"], SHOWN[kind]) for task in tasks[:2] + copied(tasks)[:1]]
    assert look(server, pages, [each["data"]["image"] for each in tasks if folders], here) == []
    given = annotate(server, tasks, {"images": "image", "texts": "text", "table": "cells"}[kind])
    tables = []
    for form, ending in EXPORTS.items():
        export, table = Path(f"{kind}-{form}.{ending}"), Path(f"{kind}-{form}.csv.labels.csv")
        export.write_bytes(server.export(project, form))
        assert main(["import-labels", str(export), "--out", str(table)]) == 0
        captured = capsys.readouterr()
        assert "annotators differ" in captured.err
        assert f"{len(given)} labels read" in captured.out
        tables.append(table)
    assert len({table.read_bytes() for table in tables}) == 1
    check_labels(kind, tables[0], given)
    more = ["--csv", str(tables[0])]
    if kind == "images":
        said = captured.out.split("fishermask-fast select ")[1].split(" ...")[0]
        more = shlex.split(said)
    again = where.with_name(f"{out} again")
    assert select(*more, *NEXT[kind], "-n", "2", "--out", str(again)) == 0
    if kind == "images":
        # The server that was started for the first round shows the second.
        folders = storages(capsys.readouterr().out)
        second = server.project(
            again / "label_studio.xml", again / "label_studio.json", folders, "next picks"
        )
        for task in server.tasks(second):
            check_image(server, task)


def copied(tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks that show a copy."""
    return [task for task in tasks if "/shown/" in task["data"].get("image", "")]


def check_image(server: Server, task: dict[str, Any]) -> None:
    """The task's image, or a copy of it that browsers show, comes as its file is."""
    got, file = server.get(task["data"]["image"]), Path(task["data"]["file"])
    if not copied([task]):
        assert got == file.read_bytes(), file
        return
    assert file.suffix in (".tif", ".tiff", ".ppm")
    assert got.startswith(b"\x89PNG")


def annotate(server: Server, tasks: Sequence[dict[str, Any]], shown: str) -> dict[Any, str]:
    """Labels of all tasks but the last three: cancelled, labeled by two differently, left alone."""
    *some, cancelled, twice, _ = tasks
    given = {}
    for place, task in enumerate(some):
        labels = CLASSES[1:] if place == 0 and shown == "text" else [CLASSES[place % 3]]
        server.annotate(task["id"], labels, shown)
        given[task["data"].get("file") or task["data"]["row"]] = "; ".join(sorted(labels))
    server.annotate(cancelled["id"], [CLASSES[0]], shown, cancelled=True)
    for label in CLASSES[:2]:
        server.annotate(twice["id"], [label], shown)
    return given


def check_labels(kind: str, table: Path, given: dict[Any, str]) -> None:
    """Each label stands with its sample, the known ones are kept, all others have none."""
    if kind == "images":
        found = labels_of(table, "path")
        known = {f: label for f, label in found.items() if "/old/" in f}
        assert {Path(f).parent.name for f in known} == set(known.values())
        assert {f: label for f, label in found.items() if label and f not in known} == given
        assert len(found) == len(NAMES) + 4 + 6
        return
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows[:3]] == CLASSES
    labeled = {i: row["label"] for i, row in enumerate(rows, 1) if i > 3 and row["label"]}
    assert labeled == given
