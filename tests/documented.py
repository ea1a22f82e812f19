"""Pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SHELL = re.compile(r"```(?:sh|bash)\n(.*?)```", re.DOTALL)
PROGRAM = "fishermask-fast"


def commands(page: str) -> list[list[str]]:
    """Arguments of each call of the command line in a page's blocks of shell, in order."""
    lines = [
        line
        for block in _SHELL.findall(page)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(f"{PROGRAM} ")
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines]
