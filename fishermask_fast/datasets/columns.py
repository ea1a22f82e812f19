"""Columns of a table as numbers: what is missing, what is a category, and what is neither.

A column in which every cell that is not empty is a number stays one: an empty cell becomes the mean
of the pool, and a column more says 0 or 1 where it was. Any other column is of categories, and
becomes a column 0 or 1 for each text in the pool, empty cells a category of their own. Each of
these is said.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fishermask_fast.datasets.folders import SKIPPED, TAKEN, Note, summary
from fishermask_fast.datasets.rows import Rows

logger = logging.getLogger(__name__)

MOST_CATEGORIES = 100
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""Cells without a value, in small letters, where the column's others are numbers."""
_WITH_COMMAS = re.compile(r"[+-]?[\d.]*\d,[\d.,]*\d([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Column:
    """A column that has been looked at.

    Attributes:
        name: Of it.
        cells: Of the rows kept.
        numbers: The same as numbers, None where nothing is; None of a column of categories.
    """

    name: str
    cells: tuple[str, ...]
    numbers: tuple[float | None, ...] | None

    @property
    def n_missing(self) -> int:
        """Rows without a number, of a column of numbers."""
        return 0 if self.numbers is None else self.numbers.count(None)

    def encoded(self, pool: Sequence[int]) -> list[Tensor]:
        """Columns of numbers, float64 (rows,) each; rows of ``pool`` decide means and texts."""
        if self.numbers is None:
            known = sorted({self.cells[i] for i in pool})
            # A text that only the test set has tells nothing.
            return [torch.tensor([cell == each for cell in self.cells]).double() for each in known]
        there = [x for x in (self.numbers[i] for i in pool) if x is not None]
        mean = sum(there) / max(len(there), 1)
        values = torch.tensor([mean if x is None else x for x in self.numbers], dtype=torch.float64)
        gone = torch.tensor([x is None for x in self.numbers]).double()
        return [values, gone] if self.n_missing else [values]


def read_columns(file: Path, table: Rows, kept: Sequence[int], label: str) -> list[Column]:
    """All columns that have a name, but the label's; what becomes of them is said.

    Args:
        file: Of the table, for messages.
        table: The table.
        kept: Rows that are read.
        label: The column that is left out.

    Raises:
        ValueError: There is no column, or one of numbers holds something else, or one has more
            texts than a network could learn from.
    """
    for line in summary(column_notes(file, table, label)):
        logger.warning(line)
    columns = [_column(file, table, kept, place) for place in feature_places(file, table, label)]
    missing = [f"{c.name} ({c.n_missing:,})" for c in columns if c.n_missing]
    if missing:
        logger.warning(
            "missing  numbers of %s become the pool's mean, with a column more that says where: %s",
            file,
            ", ".join(missing),
        )
    categories = [column.name for column in columns if column.numbers is None]
    if categories:
        logger.warning(
            "categories  columns of %s with texts become one column for each text: %s",
            file,
            ", ".join(categories),
        )
    return columns


def _column(file: Path, table: Rows, kept: Sequence[int], place: int) -> Column:
    name = table.names[place]
    cells = tuple(table.cells[i][place].strip() for i in kept)
    numbers = tuple(map(as_number, cells))
    there = [i for i, cell in enumerate(cells) if cell.lower() not in MISSING]
    if not there:
        raise ValueError(f"{file}: column {name} is empty; leave it out")
    odd = [i for i in there if numbers[i] is None or math.isinf(numbers[i] or 0.0)]
    if not odd:
        return Column(name, cells, numbers)
    # Where most are numbers, the others are mistakes rather than categories.
    if len(odd) * 2 <= len(there):
        raise ValueError(
            f"{file}, line {table.lines[kept[odd[0]]]}: {name} must be a finite number; got "
            f"{cells[odd[0]]!r}"
        )
    if all(_WITH_COMMAS.fullmatch(cells[i]) for i in odd):
        raise ValueError(
            f"{file}, line {table.lines[kept[odd[0]]]}: {name} must have numbers with a decimal "
            f"point and no other marks; got {cells[odd[0]]!r}"
        )
    texts = sorted(set(cells))
    if len(texts) > MOST_CATEGORIES:
        raise ValueError(
            f"{file}: column {name} holds {len(texts):,} different texts, such as {texts[0]!r}; "
            "leave it out, or name it text where it is what the network is to read"
        )
    return Column(name, cells, None)


def feature_places(file: Path, table: Rows, label: str) -> list[int]:
    """Places of the columns that have a name, but the label's.

    Raises:
        ValueError: There is none, or two of one name.
    """
    places = [
        place for place, name in enumerate(table.names) if name != label and not _is_nameless(name)
    ]
    names = [table.names[place] for place in places]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file} must have one column {twice}; it has {names.count(twice)}")
    if not places:
        raise ValueError(
            f"{file} must have a column {label} and others; it has no other with a name"
        )
    return places


def column_notes(file: Path, table: Rows, label: str, aside: Sequence[str] = ()) -> list[Note]:
    """What is to be said of columns: those that are left out, and those that count the rows."""
    notes = []
    counts = [[str(i + start) for i in range(len(table.cells))] for start in (0, 1)]
    for place, name in enumerate(table.names):
        if name == label or name in aside:
            continue
        if _is_nameless(name):
            said = f"column {place + 1} ({name.strip() or 'empty'}) without a name, as an index is"
            notes.append(Note(file, SKIPPED, said))
        elif [row[place].strip() for row in table.cells] in counts:
            notes.append(
                Note(
                    file,
                    TAKEN,
                    f"column {name}, which counts the rows: it tells the label where rows are "
                    "sorted by it",
                )
            )
    return notes


def as_number(cell: str) -> float | None:
    """The number that a cell is, or None; "nan" cells are none, nor what Python's code allows."""
    if "_" in cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def odd_labels(labels: Sequence[str]) -> list[str]:
    """What is to be said of labels that may not mean what they are taken for; empty ones are none.

    Words for what is missing, and labels that differ in capitals alone.
    """
    counts = Counter(each for each in labels if each)
    said = [
        f"label {name!r} of {count:,} rows as a class; an empty cell says that there is none"
        for name, count in counts.items()
        if name.lower() in MISSING
    ]
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(name.casefold(), []).append(name)
    groups = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return said + [f"labels {group} as classes of their own" for group in groups]


def _is_nameless(name: str) -> bool:
    """Whether a column is a pandas index that was written, or written and read again."""
    return not name.strip() or re.fullmatch(r"Unnamed: \d+(_level_\d+)?", name.strip()) is not None
