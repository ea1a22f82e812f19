"""Groups of ranks: one process for each, over gloo on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def start(script: str, size: int, folder: Path, *more: str) -> list[subprocess.Popen[str]]:
    """The ranks of a group, each called as SCRIPT RANK SIZE FOLDER, in order."""
    return [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(size), str(folder), *more],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def found_by(script: str, size: int, folder: Path) -> list[Any]:
    """What every rank of a group left in FOLDER/RANK.pt."""
    for rank in start(script, size, folder):
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
