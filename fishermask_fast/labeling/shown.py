"""Copies of images that no browser shows, TIFF above all, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fishermask_fast.datasets import as_bytes, image_format, read_rgb

COPIES = "shown"
_BY_BROWSERS = frozenset({"AVIF", "BMP", "GIF", "ICO", "JPEG", "MPO", "PNG", "WEBP"})
"""Pillow's names of the formats that all browsers show; an MPO is a JPEG with more behind it."""


def without_browsers(images: Sequence[Path]) -> dict[Path, Path]:
    """Of images that no browser shows: the name of a copy, by their place."""
    return {
        image: Path(COPIES) / f"{rank:05}.png"
        for rank, image in enumerate(images, 1)
        if image_format(image) not in _BY_BROWSERS
    }


def write_copies(copies: Mapping[Path, Path], folder: Path) -> None:
    """Write whole images below a folder as PNG, with the values that a network gets, of 8 bits.

    Raises:
        OSError: One cannot be written.
    """
    from PIL import Image

    for image, name in copies.items():
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = as_bytes(read_rgb(str(image))[0]).permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(folder / name)
