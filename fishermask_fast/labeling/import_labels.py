"""``fishermask-fast import-labels``: an export of the label tool as the CSV of the next round."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fishermask_fast.datasets import SKIPPED, Note, summary
from fishermask_fast.labeling.csv_files import path_cell, printable, read_csv, write_csv
from fishermask_fast.labeling.label_studio import Labels, read_export
from fishermask_fast.options import ImportOptions


def import_labels(export: Path, options: ImportOptions) -> None:
    """Write each image of the pool with its label, if it has one.

    Args:
        export: Of Label Studio.
        options: The pool, and what to write.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    if options.out.exists() or options.out.is_symlink():
        raise ValueError(f"{options.out} exists already; name another file with --out")
    labels = read_export(export)
    if not labels.by_file:
        raise ValueError(f"{export} holds no task that is labeled")
    known = _pool(options.pool, labels)
    notes = list(labels.notes)
    for file, label in labels.by_file.items():
        before = known.get(file)
        if before and before != label:
            notes.append(Note(file, "relabeled", f"{before} before, {label} now"))
        known[file] = label
    write_csv(options.out, ["path", "label"], [(path_cell(f), known[f]) for f in known])
    for line in summary(notes):
        print(printable(line), file=sys.stderr)
    n_labeled = sum(1 for label in known.values() if label)
    skipped = sum(1 for note in notes if note.what == SKIPPED)
    print(
        f"{len(labels.by_file):,} labels read, {skipped:,} tasks left without one\n"
        f"{n_labeled:,} labeled images and {len(known) - n_labeled:,} unlabeled ones\n"
        f"labels        {options.out}"
    )
    if n_labeled == len(known):
        print("no unlabeled image is in it: add rows without a label, or name the --pool of select")


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
