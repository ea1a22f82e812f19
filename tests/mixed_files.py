"""A folder as people have them: images of all kinds, broken ones, links, hidden and odd names.

``write(folder, elsewhere, n)`` writes n files, each kind in turn, and says of each what a reader
should do with it.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

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


def deep_png(number: int) -> bytes:
    """Colours of 16 bits, which Pillow cannot write."""
    values = np.random.default_rng(number).integers(0, 65536, (SIDE, SIDE, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def tiff(values: bytes, bits: int, samples: int, side: int = SIDE) -> bytes:
    """A plain TIFF of one strip, whose values have any number of bits."""
    tags = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, samples, bits), (259, 3, 1, 1),
        (262, 3, 1, 2 if samples == 3 else 1), (273, 4, 1, 8), (277, 3, 1, samples),
        (278, 4, 1, side), (279, 4, 1, len(values)),
    ]  # fmt: skip
    values += b"\0" * (len(values) % 2)
    several = 8 + len(values)
    place = several + 6
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, several if count > 1 else value)
        for tag, kind, count, value in tags
    )
    table = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", place) + values + struct.pack("<3H", *[bits] * 3) + table


def deep_tiff(number: int) -> bytes:
    values = np.random.default_rng(number).integers(0, 65536, (SIDE, SIDE, 3)).astype("<u2")
    return tiff(values.tobytes(), 16, 3)


def twelve_bits(values: np.ndarray[Any, Any]) -> bytes:
    """Grey of 12 bits, two values in three bytes, as microscopes write it."""
    a, b = values.reshape(-1, 2).astype(int).T
    packed = np.stack([a >> 4, ((a & 15) << 4) | (b >> 8), b & 255], 1).astype(np.uint8)
    return tiff(packed.tobytes(), 12, 1, len(values))


def twelve(number: int) -> bytes:
    return twelve_bits(np.random.default_rng(number).integers(0, 4096, (SIDE, SIDE)))


def deep_ppm(number: int) -> bytes:
    values = np.random.default_rng(number).integers(0, 65536, (SIDE, SIDE, 3)).astype(">u2")
    return b"P6 %d %d 65535\n" % (SIDE, SIDE) + values.tobytes()


def transparent(number: int) -> bytes:
    return encoded(pixels(number).convert("P"), "PNG", transparency=3)


FILES: list[tuple[str, str, Callable[[int], bytes]]] = [
    (".png", READ, lambda i: encoded(pixels(i), "PNG")),
    (".jpg", READ, lambda i: encoded(pixels(i), "JPEG")),
    (".png", READ, lambda i: encoded(pixels(i).convert("L"), "PNG")),
    (".png", CONVERTED, lambda i: encoded(deep(i), "PNG")),
    (".tiff", CONVERTED, lambda i: encoded(deep(i), "TIFF")),
    (".png", CONVERTED, deep_png),
    (".tif", CONVERTED, deep_tiff),
    (".tif", CONVERTED, twelve),
    (".ppm", CONVERTED, deep_ppm),
    (".png", READ, lambda i: encoded(Image.new("RGB", (1, 1), (i % 256, 7, 9)), "PNG")),
    (".png", READ, lambda i: encoded(Image.new("RGB", (1, 5_000 + i), (9, i % 256, 7)), "PNG")),
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
    elsewhere.mkdir(parents=True, exist_ok=True)
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
    os.mknod(folder / "socket.png", stat.S_IFSOCK | 0o600)
    os.link(folder / "real.png", folder / "second name.png")
    for name in ("pipe.png", "socket.png", "second name.png"):
        expected[folder / name] = SKIPPED
    for name, target in (("zeros.png", "/dev/zero"), ("a.jpg", "b.jpg"), ("b.jpg", "a.jpg")):
        (folder / name).symlink_to(target)
        expected[folder / name] = SKIPPED
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    odd.write_bytes(image)
    expected[odd] = READ


def save(path: Path, mode: str = "RGB") -> Path:
    """A small image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), 7).save(path)
    return path


def reasons(notes: list[object]) -> dict[str, str]:
    """What is said of files, by their names."""
    return {note.path.name: f"{note.what}: {note.reason}" for note in notes}  # type: ignore[attr-defined]
