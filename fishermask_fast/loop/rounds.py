"""Lines of ``rounds.jsonl``: one round of one strategy each, and how they are read back.

A line is the round in JSON, with the checksum of its state, and one of the line before and itself,
so that no line can be lost, doubled, moved or changed in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fishermask_fast.files import check_name, checksum, parse_json
from fishermask_fast.loop.round_checks import check_parts


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


@dataclass(frozen=True)
class Line:
    """A round as it is recorded.

    Attributes:
        entry: The round.
        state: Checksum of the state that was kept with it; None where there is none.
        checksum: Of the line and the one before; "" in records of earlier versions.
    """

    entry: Round
    state: str | None
    checksum: str

    @classmethod
    def of(cls, entry: Round, state: str | None, before: str) -> Line:
        """The line that follows the one of checksum ``before``."""
        # As it will be read: a tuple is a list there.
        content = json.loads(json.dumps({**asdict(entry), "state": state}))
        return cls(entry, state, checksum(content, before.encode()))

    def to_bytes(self) -> bytes:
        """The line with its end."""
        content = {**asdict(self.entry), "state": self.state, "checksum": self.checksum}
        return (json.dumps(content) + "\n").encode()


def read_lines(content: bytes, file: Path, config: Mapping[str, Any]) -> list[Line]:
    """The lines of a record; a last one without its end was being written, and is left out.

    Args:
        content: Of the file.
        file: What to call it in messages.
        config: What the run was asked for, whose pool, seed and strategies the rounds must be of;
            empty where that is not known.

    Raises:
        ValueError: A line is no round, or not one that can follow those before it.
    """
    lines: list[Line] = []
    sequence = _Sequence(config)
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            line = _parse(text, lines[-1].checksum if lines else None, config)
            sequence.check(line.entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {number} is not a round: {error}") from error
        lines.append(line)
    return lines


def _parse(text: bytes, before: str | None, config: Mapping[str, Any]) -> Line:
    """A line after that of checksum ``before``; None for the first.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise TypeError("it must be an object")
    stated, state = content.pop("checksum", ""), content.get("state")
    if before is not None and bool(before) != bool(stated):
        raise ValueError("some lines state a checksum and others do not")
    if stated and stated != checksum(content, (before or "").encode()):
        raise ValueError("it is damaged, or does not follow the line before it")
    content.pop("state", None)
    if not isinstance(stated, str) or not isinstance(state, str | None):
        raise TypeError("checksums must be texts")
    unknown = set(content) - {each.name for each in fields(Round)}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]} is no part of a round")
    entry = Round(**content)
    check_name("strategy", entry.strategy)
    check_parts(vars(entry), config)
    return Line(entry, state, stated)


class _Sequence:
    """What the rounds so far leave to those that follow."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._n_pool = config.get("n_pool")
        schedule = config.get("schedule")
        self._schedule = schedule if isinstance(schedule, dict) else {}
        self._last: dict[str, Round] = {}
        self._first: dict[str, list[int]] = {}
        self._taken: dict[str, set[int]] = {}

    def check(self, entry: Round) -> None:
        """Raise unless a round is the next one of its strategy, and of this run.

        Raises:
            ValueError: It is not.
        """
        before = self._last.get(entry.strategy)
        expected = 0 if before is None else before.round + 1
        if entry.round != expected:
            raise ValueError(
                f"round {entry.round} of {entry.strategy} must be {expected}: rounds are missing "
                "or stand twice"
            )
        if entry.round > self._schedule.get("rounds", entry.round):
            raise ValueError(f"the run has {self._schedule['rounds']} rounds; got {entry.round}")
        first = next(iter(self._first.values()), entry.picks)
        if entry.round == 0 and self._first.setdefault(entry.strategy, entry.picks) != first:
            raise ValueError("round 0 must be the same for every strategy")
        taken = self._taken.setdefault(entry.strategy, set())
        if len(set(entry.picks)) < len(entry.picks) or not taken.isdisjoint(entry.picks):
            raise ValueError("picks must differ from each other and from those before")
        taken.update(entry.picks)
        if entry.n_labeled != len(taken):
            raise ValueError(f"n_labeled must be the {len(taken)} picks; got {entry.n_labeled}")
        if isinstance(self._n_pool, int) and max(entry.picks, default=0) >= self._n_pool:
            raise ValueError(f"picks must be below the pool's {self._n_pool} samples")
        if entry.seed != self._schedule.get("seed", entry.seed):
            raise ValueError(f"the run's seed is {self._schedule['seed']}; got {entry.seed}")
        if entry.strategy not in self._schedule.get("strategies", [entry.strategy]):
            raise ValueError(f"{entry.strategy} is none of the run's strategies")
        self._last[entry.strategy] = entry
