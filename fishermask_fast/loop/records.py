"""A run's folder: ``config.json`` (what was asked), ``rounds.jsonl``, ``state``, pictures.

One line of ``rounds.jsonl`` is one round of one strategy: the samples it added, and what the
network trained on all labels so far came to. ``state`` holds the network of each strategy's last
round, from which a run can go on, also with more rounds than it was begun with. A round's state is
written before its line, and the line whole or not at all, so a run that
is killed at any moment goes on from the last round that has a line. What is read back is checked as
a whole: each line states a checksum of itself, its state and the line before, ``config.json`` one
of its own. Records of earlier versions, which state none, are read by types, ranges and sequence.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fishermask_fast.files import (
    NO_LINKS,
    check_name,
    check_no_link,
    checksum,
    open_file,
    parse_json,
    read_file,
    replace_file,
    sync_folder,
)
from fishermask_fast.installation import versions
from fishermask_fast.loop.rounds import Line, Round, read_lines
from fishermask_fast.options import check_config

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ROUNDS_FILE = "rounds.jsonl"
STATE_FOLDER = "state"
# Where data lie decides nothing that is recorded.
WHEREABOUTS = ("root", "download")


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
        # Of rounds.jsonl: its bytes, the checksum of its last line, and those of the states.
        self._size = 0
        self._last = ""
        self._states: dict[tuple[str, int], str | None] = {}
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
            longer = _extended(json.loads(json.dumps(config)), content["config"], self.path)
            known = [content["versions"], *content.get("resumed_with", [])]
            if now in known and not longer:
                self._read(content["config"])
                self._is_ours = True
                return
            if now not in known:
                logger.warning("%s was begun with other versions; picks may differ", self.path)
                content["resumed_with"] = [*known[1:], now]
        # As it will be read: a tuple is a list there.
        content = json.loads(json.dumps(content))
        content["checksum"] = checksum({**content, "checksum": None})
        self._read(content["config"])
        self._is_ours = True
        replace_file(self.path / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())

    def _read(self, config: dict[str, Any]) -> None:
        file = self.path / ROUNDS_FILE
        if not file.exists() and not file.is_symlink():
            self._check_states()  # of a record that was removed
            return
        content = read_file(file)
        lines = read_lines(content, file, config)
        self._size = content.rfind(b"\n") + 1
        if self._size < len(content):
            os.truncate(file, self._size)
        self.rounds = [line.entry for line in lines]
        self._states = {(line.entry.strategy, line.entry.round): line.state for line in lines}
        self._last = lines[-1].checksum if lines else ""
        self._check_states()

    def _check_states(self) -> None:
        """Raise where states are there whose rounds are not recorded.

        A state is written before its line, one after the other, so that one may be ahead.

        Raises:
            ValueError: Lines have been lost.
        """
        reached: dict[str, int] = {}
        for entry in self.rounds:
            reached[entry.strategy] = entry.round
        ahead = 0
        for path in sorted((self.path / STATE_FOLDER).glob("*-*.pt")):
            strategy, _, number = path.stem.rpartition("-")
            if not number.isdecimal() or int(number) <= reached.get(strategy, -1):
                continue
            ahead += 1
            if ahead > 1 or int(number) > reached.get(strategy, -1) + 1:
                raise ValueError(
                    f"{self.path / ROUNDS_FILE} has lost lines, or was removed: {path} is of a "
                    "later round than the last one recorded; start the run anew in another folder"
                )

    def append(self, entry: Round) -> None:
        """Add one whole line to ``rounds.jsonl``: one write of one line, then flushed to disk.

        Raises:
            OSError: It cannot be written.
            ValueError: Somebody else has changed the file since this run wrote to it.
        """
        state = self._states.get((entry.strategy, entry.round))
        line = Line.of(entry, state, self._last)
        content = line.to_bytes()
        descriptor = self._open_rounds()
        try:
            written = os.write(descriptor, content)
            if written < len(content):
                os.ftruncate(descriptor, self._size)
                raise OSError(errno.ENOSPC, "no room left to record a round", str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not self._size:
            sync_folder(self.path)
        self._size, self._last = self._size + len(content), line.checksum
        self._forget_states(entry.strategy, before=entry.round)

    def _open_rounds(self) -> int:
        """The record as this run has left it, to be added to."""
        file = self.path / ROUNDS_FILE
        create = 0 if self._size else os.O_CREAT
        try:
            descriptor = open_file(file, os.O_WRONLY | os.O_APPEND | NO_LINKS | create)
        except FileNotFoundError:
            raise ValueError(f"{file} was removed while the run was going") from None
        size = os.fstat(descriptor).st_size
        if size != self._size:
            os.close(descriptor)
            raise ValueError(
                f"{file} was changed while the run was going: {self._size} bytes were written, it "
                f"has {size}"
            )
        return descriptor

    def save_state(self, strategy: str, number: int, state: bytes) -> None:
        """Keep what a strategy needs to go on after round ``number``, before its line is added."""
        path = self._state(strategy, number)
        check_no_link(path.parent)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, state)
        self._states[strategy, number] = hashlib.sha256(state).hexdigest()

    def load_state(self, strategy: str, number: int) -> bytes:
        """What ``save_state`` kept.

        Raises:
            ValueError: It is not there, or not as it was written.
        """
        path = self._state(strategy, number)
        check_no_link(path.parent)
        if not path.is_file():
            raise ValueError(f"{path} is gone, so the run cannot go on; start it anew")
        state = read_file(path)
        known = self._states.get((strategy, number))
        # Records of earlier versions state no checksum.
        if known is not None and hashlib.sha256(state).hexdigest() != known:
            raise ValueError(f"{path} is damaged, so the run cannot go on; start it anew")
        return state

    def _drop_states(self) -> None:
        folder = self.path / STATE_FOLDER
        if folder.is_symlink() or not folder.is_dir():
            return
        for path in folder.glob("*.pt"):
            path.unlink()
        with suppress(OSError):  # what else lies there is not ours
            folder.rmdir()

    def close(self) -> None:
        """Let another process run here; remove the folder where it is new and holds no round."""
        # One that was removed under way has a size.
        if self._is_ours and not self._size and not (self.path / ROUNDS_FILE).exists():
            self._drop_states()
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            if self._is_new:
                self.path.rmdir()
        os.close(self._lock)

    def _state(self, strategy: str, number: int) -> Path:
        return self.path / STATE_FOLDER / f"{check_name('strategy', strategy)}-{number}.pt"

    def _forget_states(self, strategy: str, before: int) -> None:
        if before:
            self._state(strategy, before - 1).unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_file(path / CONFIG_FILE))
        check_config(content["config"])
        resumed = content.get("resumed_with", [])
        if not isinstance(resumed, list):
            raise TypeError("resumed_with is no list")
        if not all(isinstance(each, dict) for each in (content["versions"], *resumed)):
            raise TypeError("versions, and each of resumed_with, must be objects")
        # Earlier versions wrote none.
        if "checksum" in content and content["checksum"] != checksum({**content, "checksum": None}):
            raise ValueError("it is damaged: its checksum is another")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / CONFIG_FILE} is not a run's configuration: {error}") from error
    return dict(content)


def _extended(asked: dict[str, Any], recorded: dict[str, Any], path: Path) -> bool:
    """Whether more rounds are asked for than recorded, which then says so as well.

    Raises:
        ValueError: Something else differs.
    """
    more, before = asked.get("schedule"), recorded.get("schedule")
    if isinstance(more, dict) and isinstance(before, dict):
        asked_rounds, rounds = more.get("rounds"), before.get("rounds")
        if type(asked_rounds) is type(rounds) is int and asked_rounds > rounds:
            longer = {**before, "rounds": asked_rounds}
            _check_same(asked, {**recorded, "schedule": longer}, path)
            recorded["schedule"] = longer
            return True
    _check_same(asked, recorded, path)
    return False


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


def read_rounds(path: str | Path) -> list[Round]:
    """The rounds recorded in a run's folder, in the order they were written.

    A last line without its end is one that was being written, and is left out.

    Raises:
        ValueError: The folder holds no record, or one that is damaged, incomplete or of another
            configuration than the folder's.
    """
    file = Path(path) / ROUNDS_FILE
    if not file.is_file():
        raise ValueError(f"{path} holds no {ROUNDS_FILE}")
    config = _read_config(Path(path))["config"] if (Path(path) / CONFIG_FILE).exists() else {}
    return [line.entry for line in read_lines(read_file(file), file, config)]


def fresh_folder(parent: str | Path, name: str) -> Path:
    """``parent/name``, or the first of ``name-2``, ``name-3``, ... that does not exist yet."""
    path = Path(parent) / name
    number = 2
    while path.exists():
        path = Path(parent) / f"{name}-{number}"
        number += 1
    return path
