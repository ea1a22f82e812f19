"""Rows of a table of people's own, by a header that may be written with other capitals.

CSV files, lines of JSON (``.jsonl``: an object a row), and Parquet where pandas reads it; a cell is
a text, empty where nothing is there. What cannot be right is refused with the file and the line:
rows longer or shorter than the header, a name that stands twice, a name one letter off a wanted
one.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fishermask_fast.files import open_file, parse_json, read_file

TABLE_ENDINGS = (".csv", ".jsonl", ".parquet")
_LARGEST_CELL = 2**31 - 1
_OTHER_ENCODINGS = [
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
    ("a workbook of Excel or an archive", b"PK\3\4"),
    ("compressed", b"\x1f\x8b"),
]
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
Numbered = list[tuple[int, list[str]]]


@dataclass(frozen=True)
class Rows:
    """A table of texts.

    Attributes:
        names: Of the columns; a wanted one as it was asked for, whatever its capitals and spaces.
        cells: Of each row, one a column.
        lines: Of the file, where each row ends; the header of a CSV is line 1. Of a Parquet file
            the rows, counted from 1.
    """

    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        place = self.names.index(name)
        return [row[place] for row in self.cells]


def read_rows(
    file: Path, wanted: Sequence[str], needed: str | None, expected: str, errors: str = "strict"
) -> Rows:
    """Read a table.

    Args:
        file: A CSV or lines of JSON in UTF-8, or Parquet, by its ending.
        wanted: Columns that are known by name.
        needed: That of them which must be there; None where none must.
        expected: What the file must have, for the message.
        errors: What becomes of bytes that are no UTF-8.

    Raises:
        ValueError: The file cannot be read as a table, or lacks the column that is needed.
        ModuleNotFoundError: It is Parquet, and pandas or pyarrow is not installed.
    """
    numbered = _READERS.get(file.suffix.lower(), _csv)(file, errors)
    header = numbered[0][1] if numbered else []
    names = tuple(_known(name, wanted) for name in header)
    rows = numbered[1:]
    if not rows or (needed is not None and needed not in names):
        near = [n for n in names if difflib.get_close_matches(n, [needed or ""], 1, 0.75)]
        meant = f"; did you mean {needed} by {near[0]}?" if near and rows else ""
        columns = ", ".join(names) if rows else "no rows"
        raise ValueError(f"{file} must have {expected}; it has {columns}{meant}")
    _check_names(file, names, wanted)
    for number, (line, row) in enumerate(rows, 1):
        _check_length(file, names, number, line, row)
    return Rows(names, tuple(tuple(row) for _, row in rows), tuple(line for line, _ in rows))


def _csv(file: Path, errors: str) -> Numbered:
    text = _text(file, errors)
    rows: Numbered = []
    start = 1
    largest = csv.field_size_limit(_LARGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            if row:
                rows.append((reader.line_num, row))
            start = reader.line_num + 1
    except csv.Error as error:
        # As of a quote that is never closed, which else would be one cell of all that follows it.
        raise ValueError(f"cannot read {file}, the row that begins in line {start}: {error}") from (
            error
        )
    finally:
        csv.field_size_limit(largest)
    _check_separator(file, rows)
    return rows


def _text(file: Path, errors: str) -> str:
    """Of a file of UTF-8.

    Raises:
        ValueError: It cannot be read, is of another encoding, or holds zero bytes.
    """
    try:
        content = read_file(file)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    for name, mark in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise ValueError(f"{file} must be UTF-8; it is {name}: save it as plain text of UTF-8")
    zero = content.find(b"\0")
    if zero >= 0:
        raise ValueError(
            f"{file} must be UTF-8; line {_line_of(content, zero)} holds a zero byte, as UTF-16 has"
        )
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        # Its positions are counted behind the mark of the encoding, where there is one.
        line = _line_of(content.removeprefix(codecs.BOM_UTF8), error.start)
        raise ValueError(f"{file} must be UTF-8; line {line} is not: save it as UTF-8") from error


def _line_of(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _jsonl(file: Path, errors: str) -> Numbered:
    lines = _text(file, errors).split("\n")
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} must be an object; got {line.strip()[:60]}")
        rows.append((number, row))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    cells = [(n, [_cell(file, n, name, row.get(name)) for name in names]) for n, row in rows]
    return [(0, names), *cells] if rows else []


def _parquet(file: Path, errors: str) -> Numbered:
    os.close(open_file(file, os.O_RDONLY))
    pandas: Any = import_module("pandas")
    import_module("pyarrow")
    try:
        frame = pandas.read_parquet(file, dtype_backend="numpy_nullable")
    # A damaged file can fail anywhere in its reader.
    except Exception as error:
        raise ValueError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    names = [str(name) for name in frame.columns]
    columns = [frame.iloc[:, place].tolist() for place in range(len(names))]
    rows = [
        (n, [_cell(file, n, name, value) for name, value in zip(names, row, strict=True)])
        for n, row in enumerate(zip(*columns, strict=True), 1)
    ]
    return [(0, names), *rows]


_READERS = {".jsonl": _jsonl, ".parquet": _parquet}


def _cell(file: Path, line: int, name: str, value: Any) -> str:
    """A value as a CSV would have it."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if str(value) in ("NaT", "<NA>"):  # as pandas has what is missing
        return ""
    if isinstance(value, list | dict | bytes) or hasattr(value, "__len__"):
        raise ValueError(
            f"{file}, line {line}: {name} must be a text or a number; got {type(value).__name__}"
        )
    return str(value)


def _known(name: str, wanted: Sequence[str]) -> str:
    plain = name.strip().casefold()
    return next((each for each in wanted if each.casefold() == plain), name)


def _check_separator(file: Path, rows: Numbered) -> None:
    """Refuse a header of one cell that holds another separator than the comma."""
    if rows and len(rows[0][1]) == 1:
        for mark, name in _OTHER_SEPARATORS.items():
            if mark in rows[0][1][0]:
                raise ValueError(
                    f"{file} must have commas between its columns; line {rows[0][0]} has {name}"
                )


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
