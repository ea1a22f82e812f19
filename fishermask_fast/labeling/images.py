"""Images of one's own: which are labeled, which are not, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fishermask_fast.datasets import (
    SKIPPED,
    TAKEN,
    FolderImages,
    Note,
    Source,
    images_below,
    images_by_class,
    notes_of,
    odd_labels,
    read_csv,
    same_file,
)
from fishermask_fast.progress import watched


@dataclass(frozen=True)
class OwnImages:
    """Paths of images, before any is read.

    Attributes:
        unlabeled: Images to pick from.
        labeled: Images that have a label.
        labels: Of those.
        classes: Names of the labels, sorted; empty where nothing is labeled.
        root: A folder that all unlabeled ones lie below.
        notes: Files that were skipped, or taken for what they hold or link to.
    """

    unlabeled: tuple[Path, ...]
    labeled: tuple[Path, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    root: Path
    notes: tuple[Note, ...] = ()


def from_folders(unlabeled: Path, labeled: Path | None) -> OwnImages:
    """All images in and below a folder, less those of a folder of class folders.

    Raises:
        ValueError: A folder is missing or holds no images.
    """
    pool, notes = images_below(unlabeled)
    by_class: dict[str, list[Path]] = {}
    if labeled is not None:
        if not labeled.is_dir():
            raise ValueError(f"labeled must be a folder of class folders; got {labeled}")
        by_class, more = images_by_class(labeled)
        notes += more
        if not by_class:
            raise ValueError(f"{labeled} must hold one folder of images per class; found none")
    known = [path for members in by_class.values() for path in members]
    labels = tuple(label for label, members in by_class.items() for _ in members)
    taken = {same_file(path) for path in known}
    free: list[Path] = []
    again: list[Path] = []
    for path in pool:
        (again if same_file(path) in taken else free).append(path)
    notes += [Note(path, SKIPPED, "labeled already") for path in again]
    if not free:
        raise ValueError(f"{unlabeled} holds no images that are not labeled")
    root = _common_root([unlabeled, *free])
    return OwnImages(tuple(free), tuple(known), labels, tuple(by_class), root, tuple(notes))


def from_csv(file: Path, label: str = "label", aside: Sequence[str] = ()) -> OwnImages:
    """Rows of a table with a column ``path`` and, where some are labeled, a column of labels.

    Paths are relative to the file's folder; a row without a label is one to pick from. Columns
    `aside` are read elsewhere.

    Raises:
        ValueError: The file cannot be read, has no column ``path``, no row without a label, or a
            row without a path or with that of another row.
    """
    table = read_csv(file, ("path", label), "path", f"a column path (and {label})")
    written = table.column("path")
    has_labels = label in table.names
    labels = [each.strip() for each in table.column(label)] if has_labels else [""] * len(written)
    seen: dict[tuple[int, int] | str, int] = {}
    for number, (cell, given) in enumerate(zip(written, labels, strict=True), 1):
        if not cell:
            raise ValueError(f"{file}, row {number} has no path")
        real = same_file(file.parent / cell)
        if real in seen:
            raise ValueError(f"{file}, rows {seen[real]} and {number} are both {cell}")
        seen[real] = number
        if not given.isprintable():
            raise ValueError(
                f"{file}, row {number}: {label} must be printable UTF-8; got {given!r}"
            )
    paths = [file.parent / cell for cell in written]
    free = [path for path, given in zip(paths, labels, strict=True) if not given]
    known = [path for path, given in zip(paths, labels, strict=True) if given]
    if not free:
        raise ValueError(f"{file} must have rows without a label to pick from; all have one")
    unread = [name for name in table.names if name not in ("path", label, *aside)]
    notes = [Note(file, SKIPPED, f"column {name or 'without a name'}") for name in unread]
    if not has_labels:
        notes.append(Note(file, SKIPPED, f"no column {label}, so all rows count as unlabeled"))
    notes += [Note(file, TAKEN, said) for said in odd_labels(labels)]
    said = tuple(each for each in labels if each)
    classes = tuple(sorted(set(said)))
    root = _common_root([file.parent, *free])
    return OwnImages(tuple(free), tuple(known), said, classes, root, tuple(notes))


def _common_root(paths: Sequence[Path]) -> Path:
    """A folder that all paths lie in or are, whose links count as they are named."""
    return Path(os.path.commonpath([os.path.abspath(path) for path in paths]))


@dataclass(frozen=True)
class ReadImages:
    """Images that can be read, and those that cannot.

    Attributes:
        paths: Of the images that can, in order.
        source: The images (N, 3, size, size), or decoded when read.
        notes: On those that cannot, and on those whose values were converted.
    """

    paths: tuple[Path, ...]
    source: Source
    notes: tuple[Note, ...]


def read_images(
    paths: Sequence[Path], size: int, label: str, progress: bool, whole: bool = False
) -> ReadImages:
    """Read all images once, and keep them decoded where they fit into memory.

    Args:
        paths: Files.
        size: Side of the square that images are resized and cropped to.
        label: What to call them where progress is shown.
        progress: Whether to show it.
        whole: They will be read again, whole and of 8 bits; here they are only tried.
    """
    images = FolderImages([str(path) for path in paths], size, eight_bits=whole)
    files = images.read(
        lambda reading: watched(reading, len(paths), f"reading {label}", "images", progress),
        keep=not whole,
    )
    readable = tuple(path for i, path in enumerate(paths) if i not in files.errors)
    return ReadImages(readable, files.source, notes_of(images.paths, files))
