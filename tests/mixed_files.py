"""A folder as people have them: images of all kinds, broken ones, links, hidden and odd names.

``write(folder, elsewhere, n)`` writes n files, each kind in turn, and says of each what a reader
should do with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

READ, CONVERTED, SKIPPED = "read", "converted", "skipped"
SIDE = 20
NAMES = (
    *("plain", "with space", "\u00fcml\u00e4ut", "\u56f3", "\U0001f40d"),
    *("a,b", "quote\"'", "=sum", "#?&%20", "-n", "line\nbreak"),
)


@dataclass(frozen=True)
class Mixed:
    """What was written.

    Attributes:
        expected: Of each path: read as it is, read and told in converted.csv, or skipped.
        n_images: How many can be read.
    """

    expected: dict[Path, str]

    @property
    def n_images(self) -> int:
        return sum(said != SKIPPED for said in self.expected.values())


def pixels(number: int) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(values)


def deep(number: int) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    values[0, 0] = 65535
    return Image.fromarray(values)


def encoded(image: Image.Image, form: str, **more: object) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **more)
    return stream.getvalue()


def rotated(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(pixels(number), "JPEG", exif=exif)


def frames(number: int, form: str) -> bytes:
    more = [pixels(number + 1), pixels(number + 2)]
    return encoded(pixels(number), form, save_all=True, append_images=more)


def floats(number: int) -> bytes:
    values = np.random.default_rng(number).random((SIDE, SIDE), dtype=np.float32)
    return encoded(Image.fromarray(values), "TIFF")


def too_large(number: int) -> bytes:
    values = np.full((SIDE, SIDE), 100_000 + number, dtype=np.int32)
    return encoded(Image.fromarray(values), "TIFF")


def transparent(number: int) -> bytes:
    return encoded(pixels(number).convert("P"), "PNG", transparency=3)


FILES: list[tuple[str, str, Callable[[int], bytes]]] = [
    (".png", READ, lambda i: encoded(pixels(i), "PNG")),
    (".jpg", READ, lambda i: encoded(pixels(i), "JPEG")),
    (".png", READ, lambda i: encoded(pixels(i).convert("L"), "PNG")),
    (".png", CONVERTED, lambda i: encoded(deep(i), "PNG")),
    (".tiff", CONVERTED, lambda i: encoded(deep(i), "TIFF")),
    (".TIF", CONVERTED, lambda i: encoded(pixels(i).convert("CMYK"), "TIFF")),
    (".jpeg", CONVERTED, lambda i: encoded(pixels(i).convert("CMYK"), "JPEG")),
    (".png", CONVERTED, lambda i: encoded(pixels(i).convert("P"), "PNG")),
    (".png", CONVERTED, transparent),
    (".png", CONVERTED, lambda i: encoded(pixels(i).convert("RGBA"), "PNG")),
    (".png", CONVERTED, lambda i: encoded(pixels(i).convert("LA"), "PNG")),
    (".png", CONVERTED, lambda i: encoded(pixels(i).convert("1"), "PNG")),
    (".tif", CONVERTED, floats),
    (".tif", CONVERTED, lambda i: frames(i, "TIFF")),
    (".gif", CONVERTED, lambda i: frames(i, "GIF")),
    (".jpg", CONVERTED, rotated),
    (".jfif", READ, lambda i: encoded(pixels(i), "JPEG")),
    (".JPE", READ, lambda i: encoded(pixels(i), "JPEG")),
    (".webp", READ, lambda i: encoded(pixels(i), "WEBP")),
    (".avif", READ, lambda i: encoded(pixels(i), "AVIF")),
    (".gif", CONVERTED, lambda i: encoded(pixels(i).convert("P"), "GIF")),
    (".bmp", READ, lambda i: encoded(pixels(i), "BMP")),
    (".ppm", READ, lambda i: encoded(pixels(i), "PPM")),
    (".jp2", READ, lambda i: encoded(pixels(i), "JPEG2000")),
    ("", CONVERTED, lambda i: encoded(pixels(i), "PNG")),
    (".dat", CONVERTED, lambda i: encoded(pixels(i), "JPEG")),
    (".png", READ, lambda i: encoded(pixels(i), "JPEG")),
    (".tif", SKIPPED, too_large),
    (".heic", SKIPPED, lambda i: b"\0\0\0\x18ftypheic" + bytes(range(200))),
    (".png", SKIPPED, lambda i: b"\x89PNG\r\n\x1a\n" + bytes(100)),
    (".jpg", SKIPPED, lambda i: b"no image at all"),
    (".jpg", SKIPPED, lambda i: encoded(pixels(i), "JPEG")[:-150]),
    (".png", SKIPPED, lambda i: encoded(pixels(i), "PNG")[:-400]),
    (".tif", SKIPPED, lambda i: encoded(pixels(i), "TIFF")[:200]),
    (".png", SKIPPED, lambda i: b""),
    (".txt", SKIPPED, lambda i: b"notes"),
    (".json", SKIPPED, lambda i: b"{}"),
]
"""Ending, what becomes of it, and its bytes."""


def write(folder: Path, elsewhere: Path, n: int) -> Mixed:
    """Write n files and links below a folder, some of the linked ones elsewhere.

    Args:
        folder: Of the images.
        elsewhere: A folder outside it.
        n: How many, at least one of each kind.
    """
    expected: dict[Path, str] = {}
    elsewhere.mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    _links(folder, elsewhere, expected)
    for number in range(n - len(expected)):
        ending, said, content = FILES[number % len(FILES)]
        name = f"{NAMES[number % len(NAMES)]} {number}{ending}"
        place = folder / ("", "sub", "sub/d\u00e9ep")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content(number))
        expected[place / name] = said
    return Mixed(expected)


def _links(folder: Path, elsewhere: Path, expected: dict[Path, str]) -> None:
    image = encoded(pixels(10_000), "PNG")

    def link(name: str, target: Path, said: str) -> None:
        (folder / name).symlink_to(target.absolute())
        expected[folder / name] = said

    for name in (".hidden.png", ".ipynb_checkpoints/copy.png"):
        (folder / name).write_bytes(image)
        expected[folder / name] = SKIPPED
    for name in ("one.png", "far/two.png", "far/three.jpg"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_bytes(image)
    (folder / "real.png").write_bytes(image)
    expected[folder / "real.png"] = READ
    link("linked file.png", elsewhere / "one.png", CONVERTED)
    link("linked again.png", folder / "real.png", SKIPPED)
    link("nowhere.png", elsewhere / "nothing.png", SKIPPED)
    link("itself.png", folder / "itself.png", SKIPPED)
    link("up", folder.parent, SKIPPED)
    (folder / "linked folder").symlink_to((elsewhere / "far").absolute())
    for name in ("two.png", "three.jpg"):
        expected[folder / "linked folder" / name] = READ
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.png").write_bytes(image)
    expected[folder / "folder.png" / "inside.png"] = READ
    os.mkfifo(folder / "pipe.png")
    expected[folder / "pipe.png"] = SKIPPED
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    odd.write_bytes(image)
    expected[odd] = READ
