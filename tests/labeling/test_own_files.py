"""Folders and tables as people have them: nothing is left out or reread without a word."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from mixed_files import (
    encoded,
    pixels,
    reasons,
    save,
)
from PIL import Image, features

from fishermask_fast.cli import main
from fishermask_fast.datasets import (
    images_below,
    images_by_class,
    load_data,
    summary,
)
from fishermask_fast.labeling.images import from_csv, from_folders, read_images
from fishermask_fast.models import build_model
from fishermask_fast.options import DataOptions


@pytest.mark.parametrize("ending", ["jfif", "gif", "avif", "jp2", "tga", "JPE", "webp", "ico"])
def test_every_ending_that_pillow_opens(tmp_path: Path, ending: str) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = save(tmp_path / f"a.{ending}")
    assert images_below(tmp_path)[0] == [path]


def test_images_by_their_first_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a.png").rename(tmp_path / "a.dat")
    save(tmp_path / "b.png").rename(tmp_path / "IMG_0001")
    (tmp_path / "notes.txt").write_text("text")
    found, notes = images_below(tmp_path)
    assert [path.name for path in found] == ["IMG_0001", "a.dat"]
    assert reasons(list(notes)) == {
        "a.dat": "taken: PNG image by its first bytes",
        "IMG_0001": "taken: PNG image by its first bytes",
        "notes.txt": "skipped: no image by its ending or its first bytes",
    }


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    pool, far = tmp_path / "pool", tmp_path / "far"
    own, other = save(pool / "own.png"), save(far / "other.png")
    save(far / "single.png")
    for name, target in {
        "away": far, "again": far, "up": tmp_path, "here": pool, "gone": tmp_path / "gone",
        "same.png": own, "one.png": far / "single.png",
    }.items():  # fmt: skip
        (pool / name).symlink_to(target)
    os.mkfifo(pool / "pipe.png")
    (far / "loop").symlink_to(far)
    found, notes = images_below(pool)
    assert len({path.resolve() for path in found}) == len(found) == 3
    assert {path.resolve() for path in found} == {own, other, far / "single.png"}
    said = reasons(list(notes))
    assert said["again"] == f"followed: link to {far}"
    assert said["away"] == "skipped: link to a folder that is read already"
    assert said["up"] == said["here"] == "skipped: link to a folder that it lies in"
    assert said["gone"].startswith("skipped: link that leads nowhere")
    assert said["same.png"] == "skipped: link to an image that is taken already"
    assert said["pipe.png"] == "skipped: a pipe, a socket or a device"


def test_hidden_copies_are_no_images_and_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in ("cat", "dog", ".ipynb_checkpoints", "empty/.thumbs"):
        for number in range(3):
            save(tmp_path / label / f"{number}.png")
    save(tmp_path / "cat" / "._0.png")
    save(tmp_path / "loose.png")
    by_class, notes = images_by_class(tmp_path)
    assert {label: len(paths) for label, paths in by_class.items()} == {"cat": 3, "dog": 3}
    said = reasons(list(notes))
    assert said[".ipynb_checkpoints"] == said["._0.png"] == said[".thumbs"] == "skipped: hidden"
    assert said["loose.png"] == "skipped: lies in no class folder"
    assert said["empty"] == "skipped: class folder without images"
    with caplog.at_level(logging.WARNING):
        assert load_data(DataOptions(str(tmp_path), image_size=8)).classes == ("cat", "dog")
    assert "loose.png: lies in no class folder" in caplog.text


def test_class_folders_that_are_links_are_said(tmp_path: Path) -> None:
    save(tmp_path / "far" / "1.png")
    save(tmp_path / "old" / "cat" / "2.png")
    (tmp_path / "old" / "dog").symlink_to(tmp_path / "far")
    by_class, notes = images_by_class(tmp_path / "old")
    assert {label: len(paths) for label, paths in by_class.items()} == {"cat": 1, "dog": 1}
    assert reasons(list(notes)) == {"dog": f"followed: link to {tmp_path / 'far'}"}


def test_a_folder_that_may_be_listed_and_no_more_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "closed" / "b.png")
    real = Path.lstat

    def closed(path: Path) -> os.stat_result:
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "lstat", closed)
    found, notes = images_below(tmp_path)
    assert [path.name for path in found] == ["a.png"]
    assert reasons(list(notes)) == {"b.png": "skipped: cannot be read: Permission denied"}


def test_one_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "b.png").symlink_to(path)
    with pytest.raises(ValueError, match=r"a\.png and .*b\.png are one file in two classes"):
        images_by_class(tmp_path)


def test_labeled_ones_left_out_of_the_pool_are_said(tmp_path: Path) -> None:
    save(tmp_path / "new.png")
    save(tmp_path / "cat" / "old.png")
    save(tmp_path / "labeled" / "cat" / "known.png")
    found = from_folders(tmp_path, tmp_path / "labeled")
    assert [path.name for path in found.unlabeled] == ["old.png", "new.png"]
    assert reasons(list(found.notes)) == {"known.png": "skipped: labeled already"}


@pytest.mark.parametrize("header", ["path, label", "path,Label", " PATH ,LABEL", "label , path"])
def test_headers_in_other_spelling(tmp_path: Path, header: str) -> None:
    rows = (
        "a.png,cat\nb.png,\n"
        if header.strip().lower().startswith("path")
        else "cat,a.png\n,b.png\n"
    )
    (tmp_path / "a.csv").write_text(f"{header}\n{rows}")
    found = from_csv(tmp_path / "a.csv")
    assert [[p.name for p in part] for part in (found.unlabeled, found.labeled)] == [
        ["b.png"],
        ["a.png"],
    ]
    assert found.classes == ("cat",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,lable\na.png,cat\n", "has no column label; did you mean it by 'lable'"),
        ("path,label,Label\na.png,cat,dog\n", "must have one column label; it has 2"),
        ("path,label\na.png,cat,3\n", "line 2 holds 3 cells, more than the header's 2"),
        ("label,path\n,a.png\n\ncat\n", "row 2 has no path: line 4 holds 1 of the header's 2"),
        ("\ufeffpath,label\na.png,c\x01t\n", "row 1: label must be printable"),
    ],
)
def test_tables_that_cannot_be_right(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        from_csv(tmp_path / "a.csv")


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\na.png,\n", encoding="utf-16")
    with pytest.raises(ValueError, match="must be UTF-8; it is UTF-16"):
        from_csv(tmp_path / "a.csv")


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="must be a file; it is a pipe"):
        from_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0"])
def test_a_nameless_index_is_no_feature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rows = "".join(f"{i},{i % 3}.5,{'xy'[i // 10]}\n" for i in range(20))
    (tmp_path / "a.csv").write_text(f"{name},a,label\n{rows}")
    assert load_data(DataOptions(str(tmp_path / "a.csv"))).shape == (1,)
    assert "without a name" in caplog.text


def test_empty_labels_are_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{i % 7},{('x', 'y', '', ' ')[i % 4]}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(f"a,Label\n{rows}")
    data = load_data(DataOptions(str(tmp_path / "a.csv")))
    assert data.classes == ("x", "y")
    assert len(data.pool) + len(data.test) == 20
    assert "20 of 40 rows" in caplog.text and "line 4" in caplog.text


def test_a_file_of_two_names_is_one_image(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old" / "cat"
    save(new / "a.png")
    os.link(new / "a.png", new / "b.png")
    save(old / "known.png")
    os.link(old / "known.png", new / "copy.png")
    found = from_folders(new, tmp_path / "old")
    assert [path.name for path in found.unlabeled] == ["a.png"]
    assert reasons(list(found.notes)) == {
        "b.png": "skipped: hard link to an image that is taken already",
        "copy.png": "skipped: labeled already",
    }
    table = tmp_path / "t.csv"
    table.write_text("path\nnew/a.png\nnew/b.png\n")
    with pytest.raises(ValueError, match="rows 1 and 2 are both new/b.png"):
        from_csv(table)


def test_what_is_said_is_a_line_for_each_reason(tmp_path: Path) -> None:
    """Whatever numbers the reasons hold, and whatever the names."""
    for number in range(12):
        whole = encoded(pixels(number), "JPEG")
        (tmp_path / f"cut {number}.jpg").write_bytes(whole[: -100 - number])
        (tmp_path / f"\x1b[2Jtext\n{number}.png").write_bytes(b"no image")
        (tmp_path / f"none {number}.bmp").write_bytes(b"")
        grey = torch.full((4, 4), 70_000 + number, dtype=torch.int32)
        Image.fromarray(grey.numpy()).save(tmp_path / f"deep {number}.tif")
    paths = images_below(tmp_path)[0]
    assert len(paths) == 48
    lines = list(summary(read_images(paths, 8, "images", False).notes))
    assert len(lines) == 4 and all(line.isprintable() for line in lines)
    for line, said in zip(
        sorted(line.removeprefix("skipped  12 files: ") for line in lines),
        ("no image of a format that Pillow opens (", "such as grey values of 32 bits from 70000 "),
        strict=False,
    ):
        assert line.startswith(said)
    text = "\n".join(lines)
    assert "the file is empty (" in text and "such as image file is truncated (" in text
    assert "\\x1b[2Jtext\\n0.png" in text and "BufferedReader" not in text


def test_columns_that_are_left_out_or_doubtful_are_said_once_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{i / 7},{i + 1},{'ab'[i % 2] * (i < 8)}" for i in range(12)]
    Path("t.csv").write_text("\n".join([",x,id,label", *rows]))
    torch.save(build_model("mlp_small", 2, (2,)).state_dict(), "net.pt")
    flags = [
        "--csv",
        "t.csv",
        "--model",
        "mlp_small",
        "--checkpoint",
        "net.pt",
        "-n",
        "2",
        "--fisher-samples",
        "4",
    ]
    assert main(["select", *flags]) == 0
    said = capsys.readouterr()
    assert said.err.count("without a name") == said.err.count("counts the rows") == 1
    for name in ("skipped", "converted"):
        assert f"{name:<13} 1, listed in picks/{name}.csv" in said.out
    assert "column 1 (empty) without a name" in Path("picks/skipped.csv").read_text()
    assert "column id, which counts the rows" in Path("picks/converted.csv").read_text()
