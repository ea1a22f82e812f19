"""From a folder or a table of one's own to data sets that a network reads.

Rows and files are read once, and what cannot be read is left out and said. Of several processes
each reads its own part: consecutive files or rows, in the order in which all of them see the pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fishermask_fast.datasets import (
    IDENTITY,
    SKIPPED,
    LabeledSamples,
    Note,
    evaluation_transform,
    images_below,
)
from fishermask_fast.distributed import Ranks
from fishermask_fast.labeling.checkpoints import Prepare
from fishermask_fast.labeling.images import (
    OwnImages,
    ReadImages,
    from_csv,
    from_folders,
    read_images,
)
from fishermask_fast.labeling.prepared import ImageFiles, Prepared
from fishermask_fast.labeling.tables import PATH, OwnTable, kind_of_table, read_own_table
from fishermask_fast.labeling.trained import Kind, Look

ALONE = Ranks(None)


@dataclass(frozen=True)
class OwnPool:
    """Samples of one's own as data sets; picks are indices into ``unlabeled``.

    Attributes:
        kind: ``"images"``, ``"table"`` or ``"texts"``.
        unlabeled: Samples to pick from; of several processes, this one's part.
        labeled: Samples that have a label; None where there are none.
        names: Of all unlabeled samples of all processes: the path of an image, else the row's
            number in the table.
        labels: Of the labeled samples.
        classes: Names of the labels, sorted; empty where nothing is labeled.
        notes: What was left out, followed or converted, and why.
        found: All images or rows, also those that cannot be read.
        look: How images become tensors; None for others.
        known: Labels of this process's labeled samples, in their order.
    """

    kind: Kind
    unlabeled: Dataset[Any]
    labeled: Dataset[Any] | None
    names: tuple[Path | int, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[Note, ...]
    found: OwnImages | OwnTable
    look: Look | None = None
    known: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_folder(
    unlabeled: str | os.PathLike[str],
    labeled: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 224,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prepare: Prepare | None = None,
    progress: bool = False,
) -> OwnPool:
    """Images of folders as a pool to pick from.

    Args:
        unlabeled: Folder of images to pick from, at any depth.
        labeled: Folder that holds one folder of images per class.
        image_size: Images are resized to this shorter side and cropped to a square, in pixels.
        mean: Of the three channels, on the scale 0 to 1; None is ImageNet's.
        std: Likewise.
        prepare: Instead of all that: makes a batch of a list of uint8 images (3, height, width).
        progress: Show how far reading is.

    Returns:
        A pool whose ``unlabeled`` and ``labeled`` go into ``FisherMaskSelector.query``.

    Raises:
        ValueError: A folder is missing, or holds no images that can be read.

    Example:
        >>> pool = read_folder("new", "old", image_size=224)
        >>> selection = FisherMaskSelector(model).query(pool.unlabeled, 50, pool.labeled)
        >>> write_picks("picks", pool, selection.indices, scores=selection.scores, model=model)
    """
    found = from_folders(Path(unlabeled), None if labeled is None else Path(labeled))
    return pool_of(found, Look.of(None, image_size, mean, std), prepare, progress=progress)


def read_table(
    file: str | os.PathLike[str],
    *,
    label_column: str = "label",
    image_size: int = 224,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prepare: Prepare | None = None,
    progress: bool = False,
) -> OwnPool:
    """Rows of a table (.csv, .jsonl, .parquet) as a pool to pick from.

    A column ``path`` makes it a list of images, relative to the file; a column ``text`` a list of
    texts, which need ``prepare``; otherwise each row is its columns of numbers, in their order. A
    row whose label is empty is one to pick from.

    Args:
        file: The table.
        label_column: Column of the labels.
        image_size: As for ``read_folder``.
        mean: As for ``read_folder``.
        std: As for ``read_folder``.
        prepare: Makes a batch of a list of images (see ``read_folder``), of texts, or of rows as
            dictionaries of texts.
        progress: Show how far reading is.

    Returns:
        A pool, as ``read_folder`` gives it.

    Raises:
        ValueError: The file cannot be read, or holds what cannot be right: says file and line.

    Example:
        >>> pool = read_table("said.csv", prepare=lambda texts: tokenizer(texts, padding=True))
    """
    found = find_in_table(Path(file), label_column)
    return pool_of(found, Look.of(None, image_size, mean, std), prepare, progress=progress)


def find_in_table(file: Path, label_column: str, aside: Sequence[str] = ()) -> OwnImages | OwnTable:
    """The images that a table lists, or its rows; columns `aside` are no features.

    Raises:
        ValueError: As ``read_table``.
    """
    if kind_of_table(file, label_column) == "images":
        return from_csv(file, label_column, aside)
    return read_own_table(file, label_column, aside)


def pool_of(
    found: OwnImages | OwnTable,
    look: Look,
    prepare: Prepare | None,
    *,
    progress: bool = False,
    ranks: Ranks = ALONE,
    part: Callable[[int], slice] = lambda n: slice(n),
) -> OwnPool:
    """Data sets of what was found.

    Args:
        found: Images or rows.
        look: How images become tensors.
        prepare: What makes batches instead.
        progress: Show how far reading is.
        ranks: The processes that read together.
        part: Which of n samples this process reads.

    Raises:
        ValueError: Nothing can be read, or rows are no numbers.
    """
    if isinstance(found, OwnTable):
        return ranks.attempt(lambda: _rows(found, prepare, part))
    free = ranks.attempt(
        lambda: _images(found.unlabeled, "unlabeled images", look, prepare, progress, part)
    )
    known = None
    if found.labeled:
        known = ranks.attempt(
            lambda: _images(found.labeled, "labeled images", look, prepare, progress, part)
        )
    both = [each for each in (free, known) if each is not None]
    notes = tuple(note for each in both for note in each[0].notes)
    told = ranks.everyone((free[0].paths, notes))
    names = tuple(path for paths, _ in told for path in paths)
    if not names:
        raise _none_can_be_read("unlabeled", ranks.everyone(free[0].notes))
    if known is not None and not any(ranks.everyone(len(known[0].paths))):
        raise _none_can_be_read("labeled", ranks.everyone(known[0].notes))
    return OwnPool(
        "images",
        free[1],
        None if known is None else known[1],
        names,
        found.labels,
        found.classes,
        (*found.notes, *(note for _, some in told for note in some)),
        found,
        look,
        () if known is None else _labels_of(found, known[0].paths),
    )


def _labels_of(found: OwnImages, paths: Sequence[Path]) -> tuple[str, ...]:
    label = dict(zip(found.labeled, found.labels, strict=True))
    return tuple(label[path] for path in paths)


def eval_samples(
    place: Path,
    pool: OwnPool,
    prepare: Prepare | None,
    *,
    progress: bool = False,
    ranks: Ranks = ALONE,
    part: Callable[[int], slice] = lambda n: slice(n),
) -> tuple[Dataset[Any], tuple[Note, ...]]:
    """Samples of the kind of a pool, of which no labels are read; and what was left out.

    Args:
        place: A folder of images or a table that lists some; a table like the pool's.
        pool: The pool.
        prepare: What makes batches instead.
        progress: Show how far reading is.
        ranks: The processes that read together.
        part: Which of n samples this process reads.

    Raises:
        ValueError: They cannot be read, or are of another kind.
    """
    found, look = pool.found, pool.look
    if isinstance(found, OwnTable):
        table = read_own_table(place, found.label, found.aside, every=True)
        _check_alike(place, table, found)
        return _rows(table, prepare, part).unlabeled, ()
    assert look is not None
    if place.is_dir():
        paths, notes = images_below(place)
    else:
        table = read_own_table(place, every=True)
        if PATH not in table.table.names:
            raise ValueError(
                f"eval_data must be a folder of images or a table with a column path; got {place}"
            )
        paths, notes = [place.parent / cell for cell in table.table.column(PATH)], []
    if not paths:
        raise ValueError(f"{place} holds no images")
    read, samples = ranks.attempt(
        lambda: _images(paths, "eval images", look, prepare, progress, part)
    )
    told = ranks.everyone((len(read.paths), read.notes))
    if not any(count for count, _ in told):
        raise _none_can_be_read("eval", [notes for _, notes in told])
    return samples, (*notes, *(note for _, some in told for note in some))


def _check_alike(place: Path, table: OwnTable, found: OwnTable) -> None:
    if table.text != found.text:
        raise ValueError(f"{place} must have a column text, or none, as {found.file} has")
    if table.text:
        return
    names = [[each.table.names[at] for at in each.columns()] for each in (table, found)]
    if names[0] != names[1]:
        raise ValueError(
            f"{place} must have the columns of {found.file}, {', '.join(names[1])}; it has "
            f"{', '.join(names[0])}"
        )


def _none_can_be_read(which: str, notes: Sequence[Sequence[Note]]) -> ValueError:
    every = [note for some in notes for note in some if note.what == SKIPPED]
    return ValueError(
        f"none of the {len(every)} {which} images can be read; {every[0].path}: {every[0].reason}"
    )


def _images(
    paths: Sequence[Path],
    label: str,
    look: Look,
    prepare: Prepare | None,
    progress: bool,
    part: Callable[[int], slice],
) -> tuple[ReadImages, Dataset[Any]]:
    mine = paths[part(len(paths))]
    read = read_images(mine, look.size, label, progress, whole=prepare is not None)
    if prepare is not None:
        return read, Prepared(ImageFiles(read.paths), prepare)
    transform = evaluation_transform(look.mean, look.std)
    targets = torch.zeros(len(read.source), dtype=torch.int64)
    return read, LabeledSamples(read.source, targets, transform)


def _rows(table: OwnTable, prepare: Prepare | None, part: Callable[[int], slice]) -> OwnPool:
    if table.text and prepare is None:
        raise ValueError(
            f"{table.file} holds texts, which need a tokenizer: take model hf:FOLDER, or a "
            "package.module:function that returns a network and what prepares a list of texts"
        )

    def seen(rows: Sequence[int]) -> Dataset[Any]:
        mine = rows[part(len(rows))]
        if table.text and prepare is not None:
            return Prepared(table.texts(mine), prepare)
        if prepare is not None:
            return Prepared(table.cells(mine), prepare)
        return _plain(table.numbers(mine))

    return OwnPool(
        "texts" if table.text else "table",
        seen(table.unlabeled),
        seen(table.labeled) if table.labeled else None,
        tuple(row + 1 for row in table.unlabeled),
        table.labels,
        table.classes,
        table.notes,
        table,
        known=table.labels[part(len(table.labeled))],
    )


def _plain(values: Tensor) -> LabeledSamples:
    return LabeledSamples(values, torch.zeros(len(values), dtype=torch.int64), IDENTITY)
