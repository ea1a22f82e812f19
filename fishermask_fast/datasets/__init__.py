"""Labeled samples: as they are stored, how they are read, and sets of them by name.

Rooms: folders (which files are images), pixels (an image file as RGB), rows (of a table),
csv_files (of paths, byte for byte), columns (of a table, as numbers), samples (stored, and seen
through a transform), downloads (of others'), images, tables (numbers and texts), imbalance (how
many of each class), pools (a pool and a test set by name). May import: options, progress, checks,
files.
"""

from __future__ import annotations

from fishermask_fast.datasets.columns import as_number, column_notes, feature_places, odd_labels
from fishermask_fast.datasets.csv_files import path_cell, read_csv, write_csv, write_notes
from fishermask_fast.datasets.folders import (
    FOLLOWED,
    SKIPPED,
    TAKEN,
    Note,
    image_format,
    images_below,
    images_by_class,
    same_file,
    sorted_notes,
    summary,
)
from fishermask_fast.datasets.images import evaluation_transform
from fishermask_fast.datasets.pixels import as_bytes, read_rgb
from fishermask_fast.datasets.pools import load_data
from fishermask_fast.datasets.rows import TABLE_ENDINGS, Rows, read_rows
from fishermask_fast.datasets.samples import (
    IDENTITY,
    FolderImages,
    Label,
    LabeledSamples,
    PoolAndTest,
    Source,
    notes_of,
)

__all__ = [
    "FOLLOWED",
    "FolderImages",
    "Label",
    "LabeledSamples",
    "Note",
    "PoolAndTest",
    "Rows",
    "SKIPPED",
    "TAKEN",
    "Source",
    "IDENTITY",
    "TABLE_ENDINGS",
    "as_number",
    "column_notes",
    "notes_of",
    "odd_labels",
    "path_cell",
    "read_csv",
    "same_file",
    "sorted_notes",
    "write_csv",
    "write_notes",
    "feature_places",
    "read_rgb",
    "as_bytes",
    "evaluation_transform",
    "image_format",
    "images_below",
    "images_by_class",
    "load_data",
    "read_rows",
    "summary",
]
