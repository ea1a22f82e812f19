"""``fishermask-fast import-labels``: an export of the label tool as the CSV of the next round."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from fishermask_fast.datasets import SKIPPED, Note, path_cell, read_csv, summary, write_csv
from fishermask_fast.labeling.label_studio import Labels, read_export
from fishermask_fast.options import ImportOptions


def import_labels(export: Path, options: ImportOptions) -> None:
    """Write each sample of the pool with its label, if it has one.

    Args:
        export: Of Label Studio.
        options: The pool, and what to write.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    if options.out.exists() or options.out.is_symlink():
        raise ValueError(f"{options.out} exists already; name another file with --out")
    labels = read_export(export)
    if not labels.by_sample:
        raise ValueError(f"{export} holds no task that is labeled")
    notes = list(labels.notes)
    if any(isinstance(sample, int) for sample in labels.by_sample):
        n_labeled, n_free = _fill_rows(export, options, labels, notes)
        what = "rows"
    else:
        n_labeled, n_free = _fill_files(options, labels, notes)
        what = "images"
    for line in summary(notes):
        print(line, file=sys.stderr)
    skipped = sum(1 for note in notes if note.what == SKIPPED)
    print(
        f"{len(labels.by_sample):,} labels read, {skipped:,} tasks left without one\n"
        f"{n_labeled:,} labeled {what} and {n_free:,} unlabeled ones\n"
        f"labels        {options.out}"
    )
    if labels.root is not None and n_free:
        flags = ["--csv", str(options.out), "--document-root", str(labels.root)]
        print(f"next round    fishermask-fast select {shlex.join(flags)} ...")
    if not n_free:
        print(
            f"no unlabeled {what[:-1]} is in it: add rows without a label, or name the --pool of "
            "select"
        )


def _fill_files(options: ImportOptions, labels: Labels, notes: list[Note]) -> tuple[int, int]:
    """Write paths with their labels; how many have one, and how many none."""
    known = _pool(options.pool, labels)
    for file, label in labels.by_sample.items():
        assert isinstance(file, Path)
        _note_change(notes, file, known.get(file, ""), label)
        known[file] = label
    write_csv(options.out, ["path", "label"], [(path_cell(f), known[f]) for f in known])
    n_labeled = sum(1 for label in known.values() if label)
    return n_labeled, len(known) - n_labeled


def _fill_rows(
    export: Path, options: ImportOptions, labels: Labels, notes: list[Note]
) -> tuple[int, int]:
    """Write the pool's rows with their labels; how many have one, and how many none."""
    tables = [options.pool] if options.pool is not None else list(labels.pools)
    if len(tables) != 1 or not tables[0].exists():
        raise ValueError(
            f"{export} holds rows of a table: name the pool.csv of the select that they are from "
            "with --pool"
        )
    table = read_csv(tables[0], ("label",), "label", "a column label")
    place = table.names.index("label")
    rows = [list(row) for row in table.cells]
    for sample, label in labels.by_sample.items():
        if not isinstance(sample, int) or sample > len(rows):
            raise ValueError(f"{export} has labels of {sample}, which is no row of {tables[0]}")
        _note_change(notes, Path(f"row {sample}"), rows[sample - 1][place], label)
        rows[sample - 1][place] = label
    write_csv(options.out, table.names, rows)
    n_labeled = sum(1 for row in rows if row[place].strip())
    return n_labeled, len(rows) - n_labeled


def _note_change(notes: list[Note], sample: Path, before: str, now: str) -> None:
    if before and before != now:
        notes.append(Note(sample, "relabeled", f"{before} before, {now} now"))


def _pool(table: Path | None, labels: Labels) -> dict[Path, str]:
    """Label of each image so far, empty where there is none."""
    tables = [table] if table is not None else [each for each in labels.pools if each.exists()]
    known: dict[Path, str] = {}
    for each in tables:
        rows = read_csv(each, ("path", "label"), "path", "columns path and label")
        found = rows.column("label") if "label" in rows.names else [""] * len(rows.cells)
        for name, label in zip(rows.column("path"), found, strict=True):
            file = Path(os.path.abspath(each.parent / name))
            known[file] = label.strip() or known.get(file, "")
    return known
