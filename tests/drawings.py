"""Drawings of shapes in folders of their names: a small set of images that anyone can make.

python tests/drawings.py [FOLDER]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 24
COUNTS = {"circle": 240, "cross": 20, "square": 20, "triangle": 20}


def draw(shape: str, dice: random.Random) -> Image.Image:
    """One shape, of a random place, size and grey, on a random dark ground with specks."""
    image = Image.new("L", (SIDE, SIDE), dice.randrange(60))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        pen.point((dice.randrange(SIDE), dice.randrange(SIDE)), dice.randrange(256))
    half = dice.randint(4, 7)
    x, y = (dice.randint(half + 1, SIDE - half - 2) for _ in range(2))
    grey = dice.randrange(120, 256)
    box = (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, fill=grey)
    elif shape == "square":
        pen.rectangle(box, fill=grey)
    elif shape == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=grey)
    else:
        pen.line((x - half, y, x + half, y), fill=grey, width=3)
        pen.line((x, y - half, x, y + half), fill=grey, width=3)
    return image


def make(folder: Path, seed: int = 0) -> None:
    """Writes every drawing as FOLDER/SHAPE/NUMBER.png."""
    dice = random.Random(seed)
    for shape, count in COUNTS.items():
        (folder / shape).mkdir(parents=True)
        for number in range(count):
            draw(shape, dice).save(folder / shape / f"{number:03}.png")


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "photos"))
