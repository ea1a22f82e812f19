"""Tables and texts of one's own: which rows are labeled, which not, and what the network reads.

A network that is trained already has its own preprocessing, so nothing is guessed here: a table's
columns are read as the numbers that they are, in the file's order, and a cell that is none is
refused with its line. What else a network needs, ``package.module:function`` can do with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fishermask_fast.datasets import (
    SKIPPED,
    TAKEN,
    Note,
    Rows,
    as_number,
    column_notes,
    feature_places,
    odd_labels,
    read_rows,
)

TEXT, PATH = "text", "path"
USUAL_LABEL = "label"


@dataclass(frozen=True)
class OwnTable:
    """Rows of a file, before a network reads them.

    Attributes:
        file: The file.
        table: Its columns and cells.
        label: Column of the labels.
        text: Whether a column ``text`` is what the network reads.
        unlabeled: Rows to pick from.
        labeled: Rows that have a label.
        labels: Of those.
        classes: Names of the labels, sorted; empty where nothing is labeled.
        notes: What was left out.
        aside: Columns that the network does not read.
    """

    file: Path
    table: Rows
    label: str
    text: bool
    unlabeled: tuple[int, ...]
    labeled: tuple[int, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[Note, ...]
    aside: tuple[str, ...] = ()

    def columns(self) -> list[int]:
        """Places of the columns that the network reads as numbers."""
        places = feature_places(self.file, self.table, self.label)
        return [place for place in places if self.table.names[place] not in self.aside]

    def numbers(self, rows: Sequence[int]) -> Tensor:
        """float32 (rows, columns) of some rows.

        Raises:
            ValueError: A cell is no finite number.
        """
        places = self.columns()
        values = [[self._number(row, place) for place in places] for row in rows]
        return torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(places)).float()

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of some rows."""
        column = self.table.column(TEXT)
        return [column[row] for row in rows]

    def cells(self, rows: Sequence[int]) -> list[dict[str, str]]:
        """Some rows by the names of their columns, the label left out."""
        names = self.table.names
        return [
            {
                name: cell
                for name, cell in zip(names, self.table.cells[row], strict=True)
                if name != self.label
            }
            for row in rows
        ]

    def _number(self, row: int, place: int) -> float:
        cell = self.table.cells[row][place].strip()
        number = as_number(cell)
        if number is None or number - number != 0:
            raise ValueError(
                f"{self.file}, line {self.table.lines[row]}: {self.table.names[place]} must be a "
                f"finite number, as the network was trained on; got {cell!r}"
            )
        return number


def kind_of_table(file: Path, label: str) -> str:
    """``"images"`` of a table with paths, ``"texts"``, or ``"table"``; by its header.

    Raises:
        ValueError: It cannot be read, or has no column of the name that was given for labels.
    """
    table = _read(file, label)
    names = table.names
    # A table of which nothing is labeled yet may lack the usual one.
    if label not in names and label != USUAL_LABEL:
        raise ValueError(
            f"label_column must be a column of {file}, which has {', '.join(names)}; got {label!r}"
        )
    if PATH not in names and TEXT not in names:
        others = [place for place, name in enumerate(names) if name != label]
        if not any(_is_number(row[place]) for row in table.cells for place in others):
            raise ValueError(
                f"{file} must have a column path (and {label}), a column text, or columns of "
                f"numbers; it has {', '.join(names)}"
            )
    return "images" if PATH in names else "texts" if TEXT in names else "table"


def read_own_table(
    file: Path, label: str = "label", aside: Sequence[str] = (), *, every: bool = False
) -> OwnTable:
    """Rows of a table, labeled where its column of labels is not empty.

    Args:
        file: The table.
        label: Column of the labels.
        aside: Columns that the network does not read.
        every: Whether all rows are taken for unlabeled ones.

    Raises:
        ValueError: The file cannot be read, or has no row without a label.
    """
    table = _read(file, label)
    has_labels = label in table.names
    labels = [each.strip() for each in table.column(label)] if has_labels else []
    if every or not labels:
        labels = [""] * len(table.cells)
    for line, each in zip(table.lines, labels, strict=True):
        if not each.isprintable():
            raise ValueError(f"{file}, line {line}: {label} must be printable UTF-8; got {each!r}")
    free = tuple(i for i, each in enumerate(labels) if not each)
    known = tuple(i for i, each in enumerate(labels) if each)
    if not free:
        raise ValueError(f"{file} must have rows without a label to pick from; all have one")
    text = TEXT in table.names
    notes = [] if text else column_notes(file, table, label, aside)
    if text:
        unread = [name for name in table.names if name not in (TEXT, label, *aside)]
        notes = [Note(file, SKIPPED, f"column {name or 'without a name'}") for name in unread]
    if not has_labels:
        notes.append(Note(file, SKIPPED, f"no column {label}, so all rows count as unlabeled"))
    notes += [Note(file, TAKEN, said) for said in odd_labels(labels)]
    if text:
        _check_texts(file, table)
    given = tuple(labels[i] for i in known)
    return OwnTable(
        file, table, label, text, free, known, given, tuple(sorted(set(given))), tuple(notes),
        tuple(aside),
    )  # fmt: skip


def _read(file: Path, label: str) -> Rows:
    """The table, whatever its columns; a label's name one letter off is refused."""
    table = read_rows(
        file, (label,), None, f"a column path (and {label}) or others", errors="surrogateescape"
    )
    plain = [name.strip().casefold() for name in table.names]
    names = [
        each if each in (TEXT, PATH) and label != each else name
        for each, name in zip(plain, table.names, strict=True)
    ]
    for each in (TEXT, PATH):
        if names.count(each) > 1:
            raise ValueError(f"{file} must have one column {each}; it has {names.count(each)}")
    return replace(table, names=tuple(names))


def _check_texts(file: Path, table: Rows) -> None:
    for line, text in zip(table.lines, table.column(TEXT), strict=True):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{file} must be UTF-8; the {TEXT} in line {line} is not") from error


def _is_number(cell: str) -> bool:
    return as_number(cell.strip()) is not None
