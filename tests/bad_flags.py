"""Bad values of every flag of every command, from how the options are declared.

A command's flags are those that its parser knows, each with values that its type rules out, and
with some that nobody means: below zero, without end, no file, no name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from cyclopts import Argument
from PIL import Image

from fishermask_fast import commands
from fishermask_fast.options import OptionsFile
from fishermask_fast.options.files import plain_type

COMMANDS = ("run", "select", "plot", "import-labels", "info")
BAD: dict[Any, tuple[str, ...]] = {
    bool: ("maybe", "2", ""),
    int: ("x", "", "1.5", "nan", "-7", "9" * 30),
    float: ("x", "", "nan", "inf", "-1"),
    str: ("nosuch",),
    Path: ("nosuch/nosuch",),
    Literal: ("nosuch", ""),
}
# Folders that are made where they are not there: not below a file.
MADE = {"--out", "--data-root"}

OWN = """
import torch
from torch import nn

def ready():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), lambda images: torch.stack(
        [image[:, :12, :12] / 255 for image in images])

def table():
    torch.manual_seed(3)
    return nn.Linear(2, 2)
"""
RUN = (
    "run --pool-size 40 --test-size 20 --initial 10 --per-round 5 --rounds 1 --epochs 1 "
    "--min-steps 1 --fisher-samples 5 --strategy fishermask random --model mlp_small"
)
IMAGES = "select --unlabeled new --labeled old --classes a b c --model own_flags:ready -n 3"
TABLE = "select --csv data.csv --model own_flags:table -n 3"
EMBEDDINGS = "select --embeddings pool.npz -n 3"


def flags(command: str) -> list[Argument]:
    """What a command takes, but for its arguments without a name."""
    app = commands._app(OptionsFile())[command]
    found = app.assemble_argument_collection()
    return [each for each in found if each.name.startswith("--") and each.parse]


def cases(command: str) -> Iterator[tuple[str, str]]:
    """Flags and bad values."""
    for flag in flags(command):
        for value in ("", "data.csv", "data.csv/below") if flag.name in MADE else _values(flag):
            yield flag.name, value


def _values(flag: Argument) -> Iterator[str]:
    hint = plain_type(flag.hint)
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    yield from BAD[get_origin(hint) or hint]


def usual(command: str, flag: str) -> list[str]:
    """A command line that is right, and reads the flag."""
    if command == "run":
        return f"{RUN} --out run".split()
    if command == "plot":
        return ["plot", "before"]
    if command == "import-labels":
        return ["import-labels", "export.json"]
    if command == "info":
        return ["info"]
    base = {"--csv": TABLE, "--label-column": TABLE, "--embeddings": EMBEDDINGS}.get(flag, IMAGES)
    return f"{base} --fisher-samples 5 --out picks".split()


def prepare(folder: Path) -> None:
    """The files that the command lines name, below the working folder; the run is made by them."""
    (folder / "own_flags.py").write_text(OWN)
    for number in range(9):
        write_image(folder / "new" / f"{number}.png", number)
    for number in range(4):
        write_image(folder / "old" / "ab"[number % 2] / f"{number}.png", 100 + number)
    rows = "".join(f"{i},{i * i % 7},{('cat', 'dog', '')[i % 3]}\n" for i in range(12))
    (folder / "data.csv").write_text(f"x,y,label\n{rows}")
    generator = torch.Generator().manual_seed(0)
    np.savez(
        folder / "pool.npz",
        embeddings=torch.randn(20, 6, generator=generator).numpy(),
        probabilities=torch.randn(20, 3, generator=generator).softmax(1).numpy(),
    )
    paths = "".join(f"{folder}/new/{i}.png,\n" for i in range(9))
    (folder / "pool.csv").write_text(f"path,label\n{paths}")
    result = [{"type": "choices", "from_name": "choice", "value": {"choices": ["cat"]}}]
    task = {
        "data": {"file": f"{folder}/new/0.png", "pool": f"{folder}/pool.csv", "rank": 0},
        "annotations": [{"result": result}],
    }
    (folder / "export.json").write_text(json.dumps([task]))


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
