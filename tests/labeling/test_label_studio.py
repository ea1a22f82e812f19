"""Label Studio's files: what goes out, and what comes back from its three exports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fishermask_fast.cli import main
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.images import from_csv


@pytest.mark.parametrize("names", [["cat", "dog"], ["a \"b\" <c> & 'd'", "\u00fc"]])
@pytest.mark.parametrize("several", [False, True])
def test_configurations_hold_the_classes(names: list[str], several: bool) -> None:
    view = ElementTree.fromstring(label_studio.configuration(names, several))
    assert [each.get("value") for each in view.iter("Choice")] == names
    choices = view.find("Choices")
    assert choices is not None and choices.get("choice") == ("multiple" if several else "single")
    assert choices.get("name") == label_studio.CHOICE


@pytest.mark.parametrize(
    ("folder", "files", "root", "storages"),
    [
        ("/a/b", ["/a/b/c.png"], "/a", ["/a/b"]),
        ("/a", ["/a/c.png"], "/", ["/a"]),
        ("/", ["/a/c.png", "/b/c.png", "/a/d.png"], "/", ["/a", "/b"]),
    ],
)
def test_storages_lie_strictly_below_the_root(
    folder: str, files: list[str], root: str, storages: list[str]
) -> None:
    found = label_studio.places(Path(folder), [Path(file) for file in files])
    assert found == label_studio.Places(Path(root), tuple(map(Path, storages)))
    assert all(found.root in storage.parents for storage in found.storages)


@pytest.mark.parametrize(
    ("root", "storages"),
    [("/a", ["/a/b"]), ("/", ["/a/b"]), ("/a/b", ["/a/b/c", "/a/b/d"]), ("/a/b/c", None),
     ("/x", None), ("/a/b/c/1.png", None)],
)  # fmt: skip
def test_a_server_that_is_set_up_keeps_its_root(root: str, storages: list[str] | None) -> None:
    files = [Path("/a/b/c/1.png"), Path("/a/b/d/2.png")]
    if storages is None:
        with pytest.raises(ValueError, match="document_root must lie above the folders"):
            label_studio.places(Path("/a/b"), files, Path(root))
        return
    found = label_studio.places(Path("/a/b"), files, Path(root))
    assert found == label_studio.Places(Path(root), tuple(map(Path, storages)))


@pytest.mark.parametrize(
    ("copies", "root", "expected"),
    [
        ("/a/out/shown", None, ("/a", ["/a/b", "/a/out/shown"])),
        ("/c/out/shown", None, ("/", ["/a/b", "/c/out/shown"])),
        ("/c/out/shown", "/a", ("/a", ["/a/b"])),
        ("/a/out/shown", "/", ("/", ["/a/b", "/a/out/shown"])),
    ],
)
def test_copies_have_a_storage_below_the_root(
    copies: str, root: str | None, expected: tuple[str, list[str]]
) -> None:
    files = [Path("/a/b/1.tif")]
    known = None if root is None else Path(root)
    found = label_studio.places(Path("/a/b"), files, known, Path(copies))
    assert (str(found.root), list(map(str, found.storages))) == expected


def data(folder: Path, number: int) -> dict[str, Any]:
    return {"image": "/data/local-files/?d=x", "file": str(folder / f"{number}.png"),
            "pool": str(folder / "pool.csv"), "rank": number}  # fmt: skip


def annotation(*labels: str, **more: Any) -> dict[str, Any]:
    value = {"choices": list(labels)}
    return {"result": [{"type": "choices", "from_name": "choice", "value": value}], **more}


def as_json(folder: Path) -> str:
    said = [[annotation("cat")], [annotation("dog", "cat")], [annotation("a", was_cancelled=True)],
            [annotation("cat"), annotation("dog")], []]  # fmt: skip
    return json.dumps([{"data": data(folder, i), "annotations": a} for i, a in enumerate(said)])


def as_min(folder: Path) -> str:
    said = [(0, "cat"), (1, {"choices": ["cat", "dog"]}), (2, None), (3, "cat"), (3, "dog")]
    rows = [{**data(folder, i), "annotation_id": 1} | ({"choice": c} if c else {}) for i, c in said]
    return json.dumps(rows)


def as_csv(folder: Path) -> str:
    said = [(0, "cat"), (1, '{"choices": ["cat", "dog"]}'), (2, ""), (3, "cat"), (3, "dog")]
    path = folder / "draft.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["annotation_id", "choice", *data(folder, 0)])
        writer.writeheader()
        writer.writerows({"choice": c, **data(folder, i)} for i, c in said)
    return path.read_text()


@pytest.mark.parametrize("export", [as_json, as_min, as_csv])
def test_exports_become_the_next_rounds_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], export: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{tmp_path}/{i}.png,{'dog' if i == 5 else ''}\n" for i in range(7))
    Path("pool.csv").write_text(f"path,label\n{rows}")
    Path("export").write_text(export(tmp_path))
    assert main(["import-labels", "export"]) == 0
    found = from_csv(Path("labels.csv"))
    assert {path.name: label for path, label in zip(found.labeled, found.labels, strict=True)} == {
        "0.png": "cat",
        "1.png": "cat; dog",
        "5.png": "dog",
    }
    assert [path.name for path in found.unlabeled] == ["2.png", "3.png", "4.png", "6.png"]
    said = capsys.readouterr()
    assert "annotators differ: cat or dog" in said.err and "2 labels read" in said.out
    assert main(["import-labels", "export"]) == 2
    assert "labels.csv exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("path,label\na,b\n", "must have a column choice"),
        ("[1]", "must be a list of tasks"),
        ("{}", "must be a list of tasks"),
        ("[", "cannot read export"),
        ('[{"choice": "cat"}]', "task 1 has neither file nor path"),
        ('[{"data": {"file": "a"}}]', "task 1 must have a list of annotations"),
        ('[{"file": "a", "choice": 3}]', "choices must be texts; got 3"),
        ('[{"file": "a"}]', "holds no task that is labeled"),
    ],
)
def test_exports_that_are_none_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("export").write_text(content)
    assert main(["import-labels", "export"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("labels.csv").exists()
