"""An image file as uint8 RGB, and what had to be done to its values for that.

    white = 255 of 8 bits, 65,535 of 16 bits (value / 257), 1 or 255 of floats

Grey of 16 bits keeps its order and its scale, the same for every image: a network can compare
them. Colours are converted as Pillow's ``convert("RGB")`` does, as torchvision's folders are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.files import open_file

WHITE_16 = 65_535
DARK_SHARE = 16
"""16-bit grey that stays below this part of white is as good as black to a network."""
PLAIN = ("RGB", "L")
ORIENTATION = 0x0112  # of Exif


def read_rgb(path: str) -> tuple[Tensor, tuple[str, ...]]:
    """uint8 (3, height, width) of an image file, and what was converted.

    Raises:
        ValueError: It is no regular file, or its values have no known white.
        Exception: Whatever the decoder of its format raises for damaged files.
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional

    with os.fdopen(open_file(Path(path), os.O_RDONLY), "rb") as file, Image.open(file) as image:
        done = _of_the_file(image)
        if image.mode.startswith("I") or image.mode == "F":
            grey, how = _grey_8(functional.pil_to_tensor(image))
            return grey.expand(3, -1, -1), (*done, how)
        if image.mode not in PLAIN:
            done = (*done, _of_colours(image))
        return functional.pil_to_tensor(image.convert("RGB")), done


def _of_the_file(image: Any) -> tuple[str, ...]:
    done = []
    if getattr(image, "n_frames", 1) > 1:
        done.append("first of several frames or pages")
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        done.append("as stored, not turned as its Exif orientation says")
    return tuple(done)


def _of_colours(image: Any) -> str:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return f"{image.mode} to RGB, transparency dropped"
    return f"{image.mode} to RGB"


def _grey_8(values: Tensor) -> tuple[Tensor, str]:
    """uint8 of grey values (1, height, width) of 16 or 32 bits, and how."""
    if values.dtype == torch.float32:
        return _float_grey_8(values)
    whole = values.long()
    low, high = whole.min().item(), whole.max().item()
    if low < 0 or high > WHITE_16:
        raise ValueError(
            f"grey values of 32 bits from {low} to {high} have no known white; save it with 8 or "
            "16 bits"
        )
    how = "16-bit grey to 8-bit, 65,535 as white"
    if 0 < high < WHITE_16 // DARK_SHARE:
        how += f", though it stays below {WHITE_16 // DARK_SHARE:,}: nearly black"
    return ((whole + 128) // 257).to(torch.uint8), how


def _float_grey_8(values: Tensor) -> tuple[Tensor, str]:
    low, high = values.min().item(), values.max().item()
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"grey values of floats from {low:g} to {high:g} have no known white; save it with 8 "
            "or 16 bits"
        )
    white = 1 if high <= 1 else 255
    scaled = (values.double() * (255 / white)).round().to(torch.uint8)
    return scaled, f"float grey to 8-bit, {white} as white"
