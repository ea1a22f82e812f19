"""What `select` is asked of single samples: lists of files or rows, and columns, as places.

Lists name samples as picks.csv does: images by their path (as it stands, or from the list's own
folder), rows of a table by their number, embeddings by row or name. Whatever cannot be found is an
error that names list and row: a sample left out of a list unseen would be picked again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fishermask_fast.datasets import as_number, read_csv, read_rows
from fishermask_fast.files import read_file
from fishermask_fast.labeling.images import OwnImages
from fishermask_fast.labeling.tables import OwnTable
from fishermask_fast.options import SampleOptions, SelectOptions

PATH, ROW, NAME = "path", "row", "name"

Key = Path | int | str
"""A sample: the path of an image, the number of a row, counted as in picks.csv."""
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Listed:
    """A sample as a list names it."""

    where: str  # the list, and its row or line
    column: str  # path, row or name
    text: str


def read_list(file: Path, columns: Sequence[str]) -> list[Listed]:
    """The samples that a table or a text of one a line names.

    Raises:
        ValueError: It cannot be read, or has none of the columns.
    """
    if file.suffix.lower() == ".txt":
        try:
            lines = read_file(file).decode("utf-8-sig", "surrogateescape").splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from error
        filled = [(at, line) for at, line in enumerate(lines, 1) if line.strip()]
        return [Listed(f"{file}, line {at}", columns[-1], line) for at, line in filled]
    expected = f"a column {' or '.join(columns)}"
    table = read_rows(file, columns, None, expected, errors="surrogateescape")
    column = next((each for each in columns if each in table.names), None)
    if column is None:
        raise ValueError(f"{file} must have {expected}; it has {', '.join(table.names)}")
    cells = enumerate(table.column(column), 1)
    return [Listed(f"{file}, row {at}", column, cell) for at, cell in cells]


@dataclass(frozen=True)
class Names:
    """What lists may call samples, found before any is read.

    Attributes:
        kind: What they are, in words.
        free: Of those to pick from: their keys by column and text.
        labeled: Texts of those that are labeled already, by column.
        forms: The texts that one in a list may stand for.
    """

    kind: str
    free: Mapping[str, Mapping[str, Key]]
    labeled: Mapping[str, frozenset[str]]
    forms: Callable[[Listed, Path], list[str]] = lambda each, _: [each.text.strip()]

    @classmethod
    def of(cls, found: OwnImages | OwnTable) -> Names:
        """Names of images or of a table's rows."""
        if isinstance(found, OwnImages):
            free: dict[str, Key] = {os.path.realpath(path): path for path in found.unlabeled}
            known = frozenset(map(os.path.realpath, found.labeled))
            return cls("image", {PATH: free}, {PATH: known}, _paths)
        rows: dict[str, Key] = {str(row + 1): row + 1 for row in found.unlabeled}
        return cls("row", {ROW: rows}, {ROW: frozenset(str(row + 1) for row in found.labeled)})

    def find(self, flag: str, file: Path | None, tell: Tell) -> tuple[Key, ...]:
        """Keys of the samples that a list names, none without a list; tells which are labeled.

        Raises:
            ValueError: The list cannot be read, or names what is no sample, or one of them twice.
        """
        if file is None:
            return ()
        found: dict[Key, str] = {}
        n_labeled = 0
        for each in read_list(file, list(self.free)):
            where = f"--{flag} {each.where}"
            forms = self.forms(each, file)
            here = self.free[each.column]
            keys = {here[form] for form in forms if form in here}
            if len(keys) > 1:
                raise ValueError(
                    f"{where}: {each.text} names two samples, from here and from the list's "
                    "folder; write it in full"
                )
            for key in keys:
                if key in found:
                    raise ValueError(f"{where}: {each.text} stands at {found[key]} already")
                found[key] = each.where
            if not keys and self.labeled[each.column].isdisjoint(forms):
                raise ValueError(f"{where}: {each.text!r} is no {self.kind} of the pool")
            n_labeled += not keys
        if n_labeled:
            tell(f"{file}: {n_labeled:,} are labeled already, and count as that")
        return tuple(found)


def _paths(each: Listed, file: Path) -> list[str]:
    return [os.path.realpath(each.text), os.path.realpath(file.parent / each.text)]


@dataclass(frozen=True)
class Asked:
    """What is asked of single samples, by their keys."""

    pending: tuple[Key, ...] = ()
    exclude: tuple[Key, ...] = ()
    clusters: Mapping[Key, int] | None = None
    max_per_cluster: int | None = None
    gains: Mapping[Key, float] | None = None

    @classmethod
    def of(cls, options: SelectOptions, found: OwnImages | OwnTable, tell: Tell) -> Asked:
        """What flags ask for.

        Raises:
            ValueError: Names flag, file and row.
        """
        return cls.read(options, Names.of(found), partial(cells_of, found, options), tell)

    @classmethod
    def read(
        cls,
        options: SelectOptions,
        names: Names,
        cells_of_column: Callable[[str, str], Mapping[Key, tuple[str, str]]],
        tell: Tell,
    ) -> Asked:
        """The same of samples of any kind.

        Args:
            options: The flags.
            names: What lists may call the samples.
            cells_of_column: From a flag and the column that it names to where each sample's cell
                stands, and what it says.
            tell: Takes a line.
        """
        clusters = gains = None
        if options.cluster_column is not None:
            cells = cells_of_column("cluster-column", options.cluster_column)
            ids = clusters_of(options.cluster_column, cells.values())
            clusters = dict(zip(cells, ids, strict=True))
        if options.cost_column is not None:
            cells = cells_of_column("cost-column", options.cost_column)
            gains = dict(zip(cells, gains_of(options.cost_column, cells.values()), strict=True))
        return cls(
            names.find("pending", options.pending, tell),
            names.find("exclude", options.exclude, tell),
            clusters,
            options.max_per_cluster,
            gains,
        )

    def places(self, n: int, names: Sequence[Key], part: slice, tell: Tell) -> SampleOptions:
        """The same by places in a pool that was read.

        Args:
            n: How many are to be picked.
            names: Keys of all samples of the pool.
            part: Those of this process.
            tell: Hears of samples that could not be read.

        Raises:
            ValueError: Too few are left.
        """
        at = {key: place for place, key in enumerate(names)}
        pending, exclude = (
            tuple(at[key] for key in keys if key in at) for keys in (self.pending, self.exclude)
        )
        if lost := len(self.pending) - len(pending):
            tell(f"{lost:,} pending samples cannot be read, and count for nothing")
        left = len(names) - len({*pending, *exclude})
        if n > left:
            raise ValueError(
                f"n must be at most the {left} samples that --pending and --exclude leave of "
                f"{len(names)}; got {n}"
            )
        mine = names[part]
        return SampleOptions(
            pending,
            exclude,
            None if self.clusters is None else tuple(self.clusters[key] for key in mine),
            self.max_per_cluster,
            None if self.gains is None else tuple(self.gains[key] for key in mine),
        )


def cells_of(
    found: OwnImages | OwnTable, options: SelectOptions, flag: str, name: str
) -> dict[Key, tuple[str, str]]:
    """Of each unlabeled sample: where a column's cell stands, and what it holds.

    Raises:
        ValueError: There is no such column.
    """
    file = options.csv
    assert file is not None
    rows: dict[Key, int]
    if isinstance(found, OwnImages):
        table = read_csv(file, (PATH, options.label_column), PATH, "a column path")
        at = {file.parent / cell: row for row, cell in enumerate(table.column(PATH))}
        rows = {path: at[path] for path in found.unlabeled}
    else:
        table, rows = found.table, {row + 1: row for row in found.unlabeled}
    if name not in table.names:
        raise ValueError(
            f"--{flag} must be a column of {file}, which has {', '.join(table.names)}; got {name!r}"
        )
    column = table.column(name)
    return {key: (f"{file}, row {row + 1}", column[row]) for key, row in rows.items()}


def clusters_of(name: str, cells: Collection[tuple[str, str]]) -> tuple[int, ...]:
    """A number for each different text.

    Raises:
        ValueError: A sample has none.
    """
    numbers: dict[str, int] = {}
    for where, cell in cells:
        if not cell.strip():
            raise ValueError(f"{where}: {name} is empty; each sample must be of some cluster")
        numbers.setdefault(cell.strip(), len(numbers))
    return tuple(numbers[cell.strip()] for _, cell in cells)


def gains_of(name: str, cells: Collection[tuple[str, str]]) -> tuple[float, ...]:
    """1 / cost of each sample.

    Raises:
        ValueError: A cost is no number above 0.
    """
    found = []
    for where, cell in cells:
        cost = as_number(cell.strip())
        if cost is None or not 0 < cost < float("inf") or not 0 < 1 / cost < float("inf"):
            raise ValueError(f"{where}: {name} must be a cost, a number above 0; got {cell!r}")
        found.append(1 / cost)
    return tuple(found)


def label_places(labels: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Places of labels among the model's classes.

    Raises:
        ValueError: One of them is none.
    """
    at = {name: place for place, name in enumerate(classes)}
    for label in labels:
        if label not in at:
            raise ValueError(
                f"class_weight needs labels that are classes of the model, {', '.join(classes)}; "
                f"got {label!r}"
            )
    return tuple(at[label] for label in labels)
