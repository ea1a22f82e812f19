"""A run's folder: ``config.json`` (what was asked), ``rounds.jsonl``, pictures.

One line of ``rounds.jsonl`` is one round of one strategy: the samples it added, and what the
network trained on all labels so far came to. Lines are written whole or not at all, so a run
that is stopped at any moment leaves a record that can be read.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
ROUNDS_FILE = "rounds.jsonl"
VERSIONED = ("fishermask-fast", "torch", "torchvision", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Round:
    """One round of one strategy.

    Attributes:
        strategy: Who picked.
        seed: Of the run.
        round: 0 for the initial set, which is the same for every strategy.
        picks: Pool indices labelled in this round, in the order picked.
        n_labeled: Labels in all, this round's picks included.
        accuracy: On the test set, after training on all labels so far.
        class_accuracy: The same by class; None for a class the test set does not hold.
        label_counts: How many of this round's picks belong to each class.
        training: Epochs, optimiser steps, last training accuracy and loss.
        seconds: By step: those of the query (``query/...``), ``query``, ``train``, ``evaluate``.
        query: What else the strategy tells of its picks.
    """

    strategy: str
    seed: int
    round: int
    picks: list[int]
    n_labeled: int
    accuracy: float
    class_accuracy: list[float | None]
    label_counts: list[int]
    training: dict[str, float]
    seconds: dict[str, float]
    query: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """Where one run is recorded.

    Args:
        path: The folder; made, with its parents, where it does not exist.
        config: What was asked for; written to ``config.json`` together with the versions.

    Raises:
        ValueError: The folder holds a run already, or is not a folder.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out must be a folder; {self.path} is a file")
        if (self.path / CONFIG_FILE).exists():
            raise ValueError(f"{self.path} holds a run already; name another folder, or remove it")
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"config": config, "versions": versions()}, indent=2) + "\n"
        replace_file(self.path / CONFIG_FILE, text.encode())

    def append(self, entry: Round) -> None:
        """Add one whole line to ``rounds.jsonl``: one write of one line, then flushed to disk."""
        line = (json.dumps(asdict(entry)) + "\n").encode()
        descriptor = os.open(self.path / ROUNDS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            written = os.write(descriptor, line)
            if written < len(line):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(f"no room left to record a round in {self.path}")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_rounds(path: str | Path) -> Iterator[Round]:
    """The rounds recorded in a run's folder, in the order they were written.

    Raises:
        ValueError: The folder holds no record, or a line of it is not a round.
    """
    file = Path(path) / ROUNDS_FILE
    if not file.is_file():
        raise ValueError(f"{path} holds no {ROUNDS_FILE}")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Round(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(f"{file}, line {number} is not a round: {error}") from error


def fresh_folder(parent: str | Path, name: str) -> Path:
    """``parent/name``, or the first of ``name-2``, ``name-3``, ... that does not exist yet."""
    path = Path(parent) / name
    number = 2
    while path.exists():
        path = Path(parent) / f"{name}-{number}"
        number += 1
    return path


def versions() -> dict[str, str | None]:
    """Versions of Python, of the system and of the packages that decide a run's numbers."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or, when interrupted, as it was before."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
