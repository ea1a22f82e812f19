"""A run's folder: ``config.json`` (what was asked), ``rounds.jsonl``, ``state``, pictures.

One line of ``rounds.jsonl`` is one round of one strategy: the samples it added, and what the
network trained on all labels so far came to. ``state`` holds the network of each strategy's last
round. A round's state is written before its line, and the line whole or not at all, so a run that
is killed at any moment goes on from the last round that has a line.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fishermask_fast.files import replace_file
from fishermask_fast.installation import versions

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ROUNDS_FILE = "rounds.jsonl"
STATE_FOLDER = "state"
# Where data lie decides nothing that is recorded.
WHEREABOUTS = ("root", "download")


@dataclass(frozen=True)
class Round:
    """One round of one strategy.

    Attributes:
        strategy: Who picked.
        seed: Of the run.
        round: 0 for the initial set, which is the same for every strategy.
        picks: Pool indices labeled in this round, in the order picked.
        n_labeled: Labels in all, this round's picks included.
        accuracy: On the test set, after training on all labels so far.
        class_accuracy: The same by class; None for a class the test set does not hold.
        label_counts: How many of this round's picks belong to each class.
        training: Epochs, optimiser steps, last training accuracy and loss.
        seconds: By step: those of the query (``query/...``), ``query``, ``train``, ``evaluate``.
        query: What else the strategy tells of its picks: ``mask`` is how many entries of each
            tensor are masked and how many it has, ``mask_overlap`` the share of the mask that it
            has in common with that of the round before.
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
    """Where one run is recorded, by one process at a time.

    Args:
        path: The folder; made, with its parents, where it does not exist.
        config: What was asked for; written to ``config.json`` together with the versions.
        resume: Go on with the run that the folder holds, where it holds one.

    Attributes:
        rounds: What was recorded before, in the order it was written.

    Raises:
        ValueError: The folder is not a folder, holds a run already and is not to be resumed,
            holds a run of another configuration, or another process is running in it.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        self.path = Path(path)
        self.rounds: list[Round] = []
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out must be a folder; {self.path} is a file")
        if not resume:
            self._check_free()
        self._is_new, self._is_ours = not self.path.exists(), False
        self.path.mkdir(parents=True, exist_ok=True)
        # Held until the process ends, however it ends.
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ValueError(f"another process is running in {self.path}") from None
        try:
            # Another process may have run here since, and be done.
            if not resume:
                self._check_free()
            self._open(config)
        except BaseException:
            self.close()
            raise

    def _check_free(self) -> None:
        if (self.path / CONFIG_FILE).exists():
            raise ValueError(
                f"{self.path} holds a run already; name another folder, remove it, or go on with "
                "it by --resume"
            )

    def _open(self, config: Mapping[str, Any]) -> None:
        """What is there is read, and checked to be of this configuration, before it is ours."""
        held = (self.path / CONFIG_FILE).exists()
        if not held and (self.path / ROUNDS_FILE).exists():
            raise ValueError(
                f"{self.path} holds a {ROUNDS_FILE} without the {CONFIG_FILE} that says what it is "
                "of; name another folder"
            )
        now = versions()
        content: dict[str, Any] = {"config": config, "versions": now}
        if held:
            content = _read_config(self.path)
            _check_same(json.loads(json.dumps(config)), content["config"], self.path)
            known = [content["versions"], *content.get("resumed_with", [])]
            if now in known:
                self._is_ours = True
                self._read()
                return
            logger.warning("%s was begun with other versions; picks may differ", self.path)
            content["resumed_with"] = [*known[1:], now]
        self._is_ours = True
        replace_file(self.path / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())
        self._read()

    def _read(self) -> None:
        file = self.path / ROUNDS_FILE
        if not file.exists():
            return
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
        self.rounds = list(read_rounds(self.path))

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
        self._forget_states(entry.strategy, before=entry.round)

    def save_state(self, strategy: str, number: int, state: bytes) -> None:
        """Keep what a strategy needs to go on after round ``number``, before its line is added."""
        path = self._state(strategy, number)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, state)

    def load_state(self, strategy: str, number: int) -> bytes:
        """What ``save_state`` kept.

        Raises:
            ValueError: It is not there.
        """
        path = self._state(strategy, number)
        if not path.is_file():
            raise ValueError(f"{path} is gone, so the run cannot go on; start it anew")
        return path.read_bytes()

    def finish(self) -> None:
        """Drop the states: a run that is whole needs none."""
        for path in (self.path / STATE_FOLDER).glob("*.pt"):
            path.unlink()
        if (self.path / STATE_FOLDER).is_dir():
            (self.path / STATE_FOLDER).rmdir()

    def close(self) -> None:
        """Let another process run here; remove the folder where it is new and holds no round."""
        if self._is_ours and not (self.path / ROUNDS_FILE).exists():
            self.finish()
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            if self._is_new:
                self.path.rmdir()
        os.close(self._lock)

    def _state(self, strategy: str, number: int) -> Path:
        return self.path / STATE_FOLDER / f"{strategy}-{number}.pt"

    def _forget_states(self, strategy: str, before: int) -> None:
        if before:
            self._state(strategy, before - 1).unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / CONFIG_FILE).read_bytes())
        for part in ("config", "versions"):
            if not isinstance(content[part], dict):
                raise TypeError(f"{part} is no object")
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG_FILE} is not a run's configuration: {error}") from error
    return dict(content)


def _check_same(asked: Any, recorded: Any, path: Path, name: str = "") -> None:
    if isinstance(asked, dict) and isinstance(recorded, dict):
        for key in dict.fromkeys([*asked, *recorded]):
            if key not in WHEREABOUTS:
                inner = f"{name}.{key}" if name else key
                _check_same(asked.get(key), recorded.get(key), path, inner)
    elif asked != recorded:
        raise ValueError(
            f"the run in {path} has {name} = {recorded!r}; this one asks for {asked!r}, so it "
            "cannot go on there"
        )


def read_config(path: str | Path) -> dict[str, Any]:
    """What the run in a folder was asked for.

    Raises:
        ValueError: The folder holds no run.
    """
    if not (Path(path) / CONFIG_FILE).is_file():
        raise ValueError(f"{path} holds no {CONFIG_FILE}")
    return dict(_read_config(Path(path))["config"])


def read_rounds(path: str | Path) -> Iterator[Round]:
    """The rounds recorded in a run's folder, in the order they were written.

    A last line without its end is one that was being written, and is left out.

    Raises:
        ValueError: The folder holds no record, or a line of it is not a round.
    """
    file = Path(path) / ROUNDS_FILE
    if not file.is_file():
        raise ValueError(f"{path} holds no {ROUNDS_FILE}")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
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
