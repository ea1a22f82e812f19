"""An image file as RGB, and what had to be done to its values for that.

    white = 255 of 8 bits, 4,095 of 12, 65,535 of 16, 1 or 255 of floats

Grey of more than 8 bits keeps all of its levels, value / white, on a scale that is the same for
every image: a network can compare them. Of colours of more than 8 bits Pillow reads the upper 8.
Colours are converted as Pillow's ``convert("RGB")`` does, as torchvision's folders are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fishermask_fast.files import open_file

WHITE_12, WHITE_16 = 4_095, 65_535
DARK_SHARE = 16
"""16-bit grey that stays below this part of white is as good as black to a network."""
PLAIN = ("RGB", "L")
ORIENTATION = 0x0112  # of Exif
_DEEP = re.compile(r";16[BLN]$")  # Pillow's names of how colours are stored
_HEADER = 2**16  # bytes that hold what a file says of its bits


def read_rgb(path: str) -> tuple[Tensor, tuple[str, ...]]:
    """(3, height, width) of an image file, and what was converted.

    uint8; or float32 on the scale 0 to 1, of grey with more than 8 bits.

    Raises:
        ValueError: It is no regular file, or its values have no known white.
        Exception: Whatever the decoder of its format raises for damaged files.
    """
    from torchvision.transforms.v2 import functional

    with os.fdopen(open_file(Path(path), os.O_RDONLY), "rb") as file, _opened(file) as image:
        # First, as whoever has decoded an image forgets how its values were stored.
        white = WHITE_12 if "I;12" in _stored_as(image) else WHITE_16
        deep = is_deep(image, file)
        done = _of_the_file(image)
        if image.mode.startswith("I") or image.mode == "F":
            grey, how = _deep_grey(functional.pil_to_tensor(image), white)
            return grey.expand(3, -1, -1), (*done, how)
        if deep:
            done = (*done, "more than 8 bits a channel, of which the upper 8 are read")
        if image.mode not in PLAIN:
            done = (*done, _of_colours(image))
        return functional.pil_to_tensor(image.convert("RGB")), done


def _opened(file: BinaryIO) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not os.fstat(file.fileno()).st_size:
        raise ValueError("the file is empty")
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError("no image of a format that Pillow opens") from error


def _of_the_file(image: Any) -> tuple[str, ...]:
    done = []
    if getattr(image, "n_frames", 1) > 1:
        done.append("first of several frames or pages")
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        done.append("as stored, not turned as its Exif orientation says")
    return tuple(done)


def _stored_as(image: Any) -> list[Any]:
    """What Pillow tells the decoders of an image."""
    told: list[Any] = []
    for tile in image.tile:
        told += tile.args if isinstance(tile.args, tuple) else [tile.args]
    return told


def is_deep(image: Any, file: BinaryIO) -> bool:
    """Whether channels have more bits than the 8 that are read of them."""
    told = _stored_as(image)
    if image.format == "PPM":
        return any(isinstance(each, int) and each > 255 for each in told)
    if image.format not in ("JPEG2000", "AVIF"):
        return any(isinstance(each, str) and _DEEP.search(each) for each in told)
    place = file.tell()
    file.seek(0)
    start = file.read(_HEADER)
    file.seek(place)
    # The fields of SIZ, and those of av1C, of the two formats' specifications.
    mark, offset = (b"\xff\x51", 40) if image.format == "JPEG2000" else (b"av1C", 6)
    at = start.find(mark)
    if at < 0 or at + offset >= len(start):
        return False
    said = start[at + offset]
    return said & 0x7F > 7 if image.format == "JPEG2000" else bool(said & 0x40)


def _of_colours(image: Any) -> str:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return f"{image.mode} to RGB, transparency dropped"
    return f"{image.mode} to RGB"


def as_bytes(image: Tensor) -> Tensor:
    """uint8 of an image of ``read_rgb``, on the scale 0 to 255."""
    return (image * 255).round().to(torch.uint8) if image.is_floating_point() else image


def _deep_grey(values: Tensor, white: int) -> tuple[Tensor, str]:
    """float32, 0 to 1, of grey values (1, height, width) of 12, 16 or 32 bits, and how."""
    if values.dtype == torch.float32:
        return _float_grey(values)
    whole = values.long()
    low, high = whole.min().item(), whole.max().item()
    if low < 0 or high > white:
        raise ValueError(
            f"grey values of 32 bits from {low} to {high} have no known white; save it with 8 or "
            "16 bits"
        )
    bits, dark = white.bit_length(), (white + 1) // DARK_SHARE
    how = f"{bits}-bit grey, {white:,} as white"
    if 0 < high < dark:
        how += f", though it stays below {dark:,}: nearly black"
    return (whole.double() / white).float(), how


def _float_grey(values: Tensor) -> tuple[Tensor, str]:
    low, high = values.min().item(), values.max().item()
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"grey values of floats from {low:g} to {high:g} have no known white; save it with 8 "
            "or 16 bits"
        )
    white = 1 if high <= 1 else 255
    return values / white, f"grey of floats, {white} as white"
