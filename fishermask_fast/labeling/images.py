"""Images of one's own: which are labeled, which are not, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fishermask_fast.datasets import FolderImages, Source
from fishermask_fast.labeling.csv_files import read_csv


@dataclass(frozen=True)
class OwnImages:
    """Paths of images, before any is read.

    Attributes:
        unlabeled: Images to pick from.
        labeled: Images that have a label.
        classes: Names of the labels, sorted; empty where nothing is labeled.
        root: A folder that all of them lie below.
    """

    unlabeled: tuple[Path, ...]
    labeled: tuple[Path, ...]
    classes: tuple[str, ...]
    root: Path


def from_folders(unlabeled: Path, labeled: Path | None) -> OwnImages:
    """All images in and below a folder, less those of a folder of class folders.

    Raises:
        ValueError: A folder is missing or holds no images.
    """
    pool = _images_below(unlabeled)
    known: list[Path] = []
    classes: list[str] = []
    if labeled is not None:
        if not labeled.is_dir():
            raise ValueError(f"labeled must be a folder of class folders; got {labeled}")
        for folder in sorted(path for path in labeled.iterdir() if path.is_dir()):
            members = _images_below(folder)
            known += members
            if members:
                classes.append(folder.name)
        if not known:
            raise ValueError(f"{labeled} must hold one folder of images per class; found none")
    taken = {path.resolve() for path in known}
    free = tuple(path for path in pool if path.resolve() not in taken)
    if not free:
        raise ValueError(f"{unlabeled} holds no images that are not labeled")
    return OwnImages(free, tuple(known), tuple(classes), unlabeled)


def from_csv(file: Path) -> OwnImages:
    """Rows of a CSV with a column ``path`` and, where some are labeled, a column ``label``.

    Paths are relative to the file's folder; a row without a label is one to pick from.

    Raises:
        ValueError: The file cannot be read, has no column ``path``, no row without a label, or a
            row without a path or with that of another row.
    """
    rows = read_csv(file)
    if not rows or "path" not in rows[0]:
        columns = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise ValueError(f"{file} must have a column path (and label); it has {columns}")
    seen: dict[Path, int] = {}
    for number, row in enumerate(rows, 1):
        if not row["path"]:
            raise ValueError(f"{file}, row {number} has no path")
        path = Path(os.path.abspath(file.parent / row["path"]))
        if path in seen:
            raise ValueError(f"{file}, rows {seen[path]} and {number} are both {row['path']}")
        seen[path] = number
    known = [row for row in rows if (row.get("label") or "").strip()]
    free = [row for row in rows if not (row.get("label") or "").strip()]
    if not free:
        raise ValueError(f"{file} must have rows without a label to pick from; all have one")

    def paths(some: list[dict[str, str]]) -> tuple[Path, ...]:
        return tuple(file.parent / row["path"] for row in some)

    classes = sorted({row["label"].strip() for row in known})
    # Label Studio serves only what lies below its root; paths may lead out of the file's folder.
    root = Path(os.path.commonpath([file.parent.absolute(), *seen]))
    return OwnImages(paths(free), paths(known), tuple(classes), root)


def _images_below(folder: Path) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder of images; it is not there")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
    )


@dataclass(frozen=True)
class ReadImages:
    """Images that can be read, and those that cannot.

    Attributes:
        paths: Of the images that can, in order.
        source: The images, uint8 (N, 3, size, size) or decoded when read.
        skipped: (path, reason) of those that cannot.
    """

    paths: tuple[Path, ...]
    source: Source
    skipped: tuple[tuple[Path, str], ...]


def read_images(paths: Sequence[Path], size: int, label: str, progress: bool) -> ReadImages:
    """Read all images once, and keep them decoded where they fit into memory.

    Args:
        paths: Files.
        size: Side of the square that images are resized and cropped to.
        label: What to call them on the progress bar.
        progress: Whether to show one.

    Raises:
        ValueError: None of the images can be read.
    """
    tqdm: Any = import_module("tqdm").tqdm
    images = FolderImages([str(path) for path in paths], size)
    source, errors = images.read(
        lambda reading: tqdm(
            reading, total=len(paths), desc=label, leave=False, disable=not progress
        )
    )
    skipped = tuple((paths[i], str(error.__cause__ or error)) for i, error in errors.items())
    if len(errors) == len(paths):
        raise ValueError(
            f"none of the {len(paths)} {label} can be read; {skipped[0][0]}: {skipped[0][1]}"
        )
    readable = tuple(path for i, path in enumerate(paths) if i not in errors)
    return ReadImages(readable, source, skipped)
