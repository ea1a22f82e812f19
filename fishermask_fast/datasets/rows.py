"""Rows of a CSV file of people's own, by a header that may be written with other capitals.

What cannot be right is refused with the file and the line: rows longer or shorter than the header,
a name that stands twice, a name one letter off a wanted one.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fishermask_fast.files import open_file


@dataclass(frozen=True)
class Rows:
    """A table of texts.

    Attributes:
        names: Of the columns; a wanted one as it was asked for, whatever its capitals and spaces.
        cells: Of each row, one a column.
        lines: Of the file, where each row ends; the header is line 1.
    """

    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        place = self.names.index(name)
        return [row[place] for row in self.cells]


def read_rows(
    file: Path, wanted: Sequence[str], needed: str, expected: str, errors: str = "strict"
) -> Rows:
    """Read a table.

    Args:
        file: A CSV in UTF-8.
        wanted: Columns that are known by name.
        needed: That of them which must be there.
        expected: What the file must have, for the message.
        errors: What becomes of bytes that are no UTF-8.

    Raises:
        ValueError: The file cannot be read as a table, or lacks the column that is needed.
    """
    try:
        with os.fdopen(open_file(file, os.O_RDONLY), "rb") as content:
            start = content.read(2)
            content.seek(0)
            lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors=errors, newline="")
            _check_encoding(file, start)
            reader = csv.reader(lines, strict=False)
            numbered = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    header = numbered[0][1] if numbered else []
    names = tuple(_known(name, wanted) for name in header)
    rows = numbered[1:]
    if not rows or needed not in names:
        near = [name for name in names if difflib.get_close_matches(name, [needed], 1, 0.75)]
        meant = f"; did you mean {needed} by {near[0]}?" if near else ""
        columns = ", ".join(names) if rows else "no rows"
        raise ValueError(f"{file} must have {expected}; it has {columns}{meant}")
    _check_names(file, names, wanted)
    for number, (line, row) in enumerate(rows, 1):
        _check_length(file, names, number, line, row)
    return Rows(names, tuple(tuple(row) for _, row in rows), tuple(line for line, _ in rows))


def _known(name: str, wanted: Sequence[str]) -> str:
    plain = name.strip().casefold()
    return plain if plain in wanted else name


def _check_encoding(file: Path, start: bytes) -> None:
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise ValueError(f"{file} must be UTF-8; it is UTF-16: save it as CSV UTF-8")


def _check_names(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if names.count(name) > 1:
            raise ValueError(f"{file} must have one column {name}; it has {names.count(name)}")
        if name not in names:
            near = [
                n for n in names if difflib.get_close_matches(n.strip().casefold(), [name], 1, 0.75)
            ]
            if near:
                raise ValueError(f"{file} has no column {name}; did you mean it by {near[0]!r}?")


def _check_length(
    file: Path, names: Sequence[str], number: int, line: int, row: Sequence[str]
) -> None:
    if len(row) > len(names):
        raise ValueError(
            f"{file}, line {line} holds {len(row)} cells, more than the header's {len(names)}"
        )
    if len(row) < len(names):
        missing = ", ".join(names[len(row) :])
        raise ValueError(
            f"{file}, row {number} has no {missing}: line {line} holds {len(row)} of the header's "
            f"{len(names)} cells"
        )
