"""CSV files of paths: what is written is read back byte for byte.

Names that are not UTF-8 are written as the bytes that they are. A path that begins as a formula of
a spreadsheet does is written with ./ before it, which is the same path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fishermask_fast.datasets.folders import Note, sorted_notes
from fishermask_fast.datasets.rows import Rows, read_rows
from fishermask_fast.files import replace_file

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = (",", '"', "\n", "\r")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    lines = (",".join(map(_cell, row)) + "\n" for row in (header, *rows))
    replace_file(path, "".join(lines).encode(errors="surrogateescape"))


def write_notes(folder: Path, notes: Sequence[Note]) -> None:
    """Write what was left out into skipped.csv, what was taken otherwise into converted.csv.

    Raises:
        OSError: A file cannot be written.
    """
    for name, some in sorted_notes(notes).items():
        if some:
            cells = [(path_cell(note.path), note.reason, note.what) for note in some]
            write_csv(folder / f"{name}.csv", ["path", "reason", "what"], cells)


def read_csv(path: Path, wanted: Sequence[str], needed: str, expected: str) -> Rows:
    """A table whose cells may be bytes that are no UTF-8, as names of files are.

    Raises:
        ValueError: It cannot be read, or lacks the column that is needed.
    """
    return read_rows(path, wanted, needed, expected, errors="surrogateescape")


def path_cell(path: Path) -> str:
    """A path as it is written into a table."""
    text = str(path)
    return f"./{text}" if text.startswith(_FORMULA) else text


def _cell(value: object) -> str:
    text = str(value)
    if not any(mark in text for mark in _QUOTED):
        return text
    return '"' + text.replace('"', '""') + '"'
