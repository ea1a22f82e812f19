"""Folders and tables as people have them: nothing is left out or reread without a word."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mixed_files import (
    SIDE,
    deep_png,
    deep_ppm,
    deep_tiff,
    encoded,
    pixels,
    twelve_bits,
)
from PIL import Image, features
from torch import Tensor

from fishermask_fast.datasets import FolderImages, images_below, images_by_class, load_data
from fishermask_fast.datasets import pixels as pixels_room
from fishermask_fast.labeling.images import from_csv, from_folders, read_images
from fishermask_fast.options import DataOptions

RAMP = torch.arange(256).view(16, 16)


def save(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), 7).save(path)
    return path


def reasons(notes: list[object]) -> dict[str, str]:
    return {note.path.name: f"{note.what}: {note.reason}" for note in notes}  # type: ignore[attr-defined]


def first_channel(path: Path, size: int = 16) -> Tensor:
    return FolderImages([str(path)], size)[0][0]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_keeps_its_levels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ramp.{ending}"
    Image.fromarray((RAMP * 257).to(torch.uint16).numpy()).save(path)
    assert torch.equal(first_channel(path).long(), RAMP)
    read = read_images([path], 16, "images", False)
    assert reasons(list(read.notes)) == {
        path.name: "converted: 16-bit grey to 8-bit, 65,535 as white"
    }


@pytest.mark.parametrize(("white", "scale"), [(1, 255), (255, 1)])
def test_grey_of_floats(tmp_path: Path, white: int, scale: int) -> None:
    path = tmp_path / "ramp.tif"
    Image.fromarray((RAMP / scale).float().numpy()).save(path)
    assert torch.equal(first_channel(path).long(), RAMP)
    assert f"{white} as white" in str(read_images([path], 16, "images", False).notes)


@pytest.mark.parametrize("values", [torch.tensor([[0, 70_000]]), torch.tensor([[-1, 5]])])
def test_grey_of_no_known_white_is_refused(tmp_path: Path, values: Tensor) -> None:
    for name, dtype in (("i.tif", torch.int32), ("f.tif", torch.float32)):
        Image.fromarray(values.to(dtype).numpy()).save(tmp_path / name)
        with pytest.raises(ValueError, match="no known white"):
            FolderImages([str(tmp_path / name)], 8)[0]


def test_dark_16_bit_grey_is_said(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 10).to(torch.uint16).numpy()).save(tmp_path / "a.png")
    assert "nearly black" in str(read_images([tmp_path / "a.png"], 16, "images", False).notes)


@pytest.mark.parametrize(("mode", "ending"), [("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif")])
def test_other_colours_are_said(tmp_path: Path, mode: str, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", mode)
    notes = read_images([path], 8, "images", False).notes
    assert any(note.what == "converted" and note.reason.startswith(mode) for note in notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", deep_png(1)), ("a.tif", deep_tiff(1)), ("a.ppm", deep_ppm(1))],
)
def test_colours_of_more_bits_are_said(tmp_path: Path, name: str, content: bytes) -> None:
    """The upper 8 bits of each value are read, as Pillow has it."""
    (tmp_path / name).write_bytes(content)
    values = np.random.default_rng(1).integers(0, 65536, (SIDE, SIDE, 3))
    seen = FolderImages([str(tmp_path / name)], SIDE)[0].permute(1, 2, 0).long()
    assert (seen - torch.as_tensor(values) / 257).abs().max() <= 1
    read = read_images([tmp_path / name], SIDE, "images", False)
    assert reasons(list(read.notes)) == {
        name: "converted: more than 8 bits a channel, of which the upper 8 are read"
    }


@pytest.mark.parametrize("form", ["JPEG2000", "AVIF"])
def test_compressed_colours_of_more_bits_are_said(tmp_path: Path, form: str) -> None:
    """Files of 8 bits whose header is set to say 10, which decoders read as such."""
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    plain = encoded(pixels(1), form)
    at = plain.index(b"\xff\x51" if form == "JPEG2000" else b"av1C")
    deep = bytearray(plain)
    if form == "JPEG2000":
        deep[at + 40 : at + 49 : 3] = b"\x09\x09\x09"
    else:
        deep[at + 6] |= 0x40
        depths = plain.index(b"pixi") + 9
        deep[depths : depths + 3] = b"\x0a\x0a\x0a"
    for content, said in ((plain, False), (bytes(deep), True)):
        (tmp_path / "a").write_bytes(content)
        with Image.open(tmp_path / "a") as image, (tmp_path / "a").open("rb") as file:
            file.read(3)
            assert pixels_room.is_deep(image, file) is said
            assert file.tell() == 3


@pytest.mark.parametrize("whites", [True, False])
def test_12_bit_grey_keeps_its_levels(tmp_path: Path, whites: bool) -> None:
    """In 12 bits white is known; in a container of 16 the values are as dark as they say."""
    values = RAMP * 4095 // 255
    if whites:
        (tmp_path / "a.tif").write_bytes(twelve_bits(values.numpy()))
    else:
        Image.fromarray(values.to(torch.uint16).numpy()).save(tmp_path / "a.tif")
    notes = str(read_images([tmp_path / "a.tif"], 16, "images", False).notes)
    if whites:
        assert torch.equal(first_channel(tmp_path / "a.tif").long(), RAMP)
        assert "12-bit grey to 8-bit, 4,095 as white" in notes
    else:
        assert "16-bit grey to 8-bit, 65,535 as white, though it stays below 4,096" in notes


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
