"""What is written of picks: a table, a picture, tasks for Label Studio, and what was left out.

The folder appears whole, when everything is done, or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from fishermask_fast.datasets import FolderImages, path_cell, write_csv, write_notes
from fishermask_fast.files import folder_written_whole, replace_file
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.images import OwnImages
from fishermask_fast.labeling.pools import OwnPool
from fishermask_fast.labeling.shown import COPIES, without_browsers, write_copies
from fishermask_fast.labeling.tables import OwnTable
from fishermask_fast.plotting import MOST_SHOWN, image_grid
from fishermask_fast.strategies import predict

PICKS_FILE, GRID_NAME, POOL_FILE = "picks.csv", "picks", "pool.csv"
TASKS_FILE, LABELS_FILE = "label_studio.json", "label_studio.xml"
SHOWN_SIZE = 224


@dataclass(frozen=True)
class Predictions:
    """What a model says of the picks.

    Attributes:
        labels: Of each pick: the likeliest class, or all labels above a half.
        probabilities: Of the likeliest.
    """

    labels: tuple[tuple[str, ...], ...]
    probabilities: tuple[float, ...]

    @classmethod
    def of(cls, probabilities: Tensor, classes: Sequence[str], several: bool) -> Predictions:
        """Predictions of probabilities (n, C)."""
        if several:
            found = [
                tuple(name for name, there in zip(classes, row, strict=True) if there)
                for row in (probabilities > 0.5).tolist()
            ]
        else:
            found = [(classes[i],) for i in probabilities.argmax(1).tolist()]
        return cls(tuple(found), tuple(probabilities.amax(1).tolist()))


def write_picks(
    out: str | os.PathLike[str],
    pool: OwnPool,
    indices: Tensor | Sequence[int],
    *,
    scores: Tensor | Sequence[float] | None = None,
    model: nn.Module | None = None,
    classes: Sequence[str] | None = None,
    likelihood: str = "categorical",
    by: str = "fishermask",
    version: str = "",
    document_root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write picks as the command ``select`` does.

    Args:
        out: Folder to write; must not exist.
        pool: That they were picked from.
        indices: Into ``pool.unlabeled``, in the order picked.
        scores: Of the picks.
        model: Predicts the picks' classes; None leaves predictions out.
        classes: Names in the order of the model's outputs; None is the pool's own.
        likelihood: ``"categorical"``, or ``"bernoulli"`` of a model of several labels.
        by: Who picked, for the picture's title.
        version: Of the model, as Label Studio is to show it; empty is its class's name.
        document_root: LOCAL_FILES_DOCUMENT_ROOT of a Label Studio that is set up; None is the
            folder above that of the images.

    Returns:
        The folder.

    Raises:
        ValueError: Names do not fit the model's outputs, or indices not the pool.
        OSError: It cannot be written, or is there already.

    Example:
        >>> selection = FisherMaskSelector(model).query(pool.unlabeled, 50, pool.labeled)
        >>> write_picks("picks", pool, selection.indices, scores=selection.scores, model=model)
    """
    picks = [int(i) for i in indices]
    wrong = [i for i in picks if not 0 <= i < len(pool)]
    if not picks or wrong or len(set(picks)) < len(picks):
        raise ValueError(
            f"indices must name different samples of the {len(pool)} in the pool; got "
            f"{wrong[0] if wrong else len(picks)}"
        )
    values = [None] * len(picks) if scores is None else [float(x) for x in scores]
    if len(values) != len(picks):
        raise ValueError(f"scores must be one of each of {len(picks)} picks; got {len(values)}")
    predictions = None
    if model is not None:
        some = Subset(pool.unlabeled, picks)
        p = predict(model, some, likelihood=likelihood)[0].exp()
        names = check_classes(list(classes or pool.classes), p.shape[1])
        predictions = Predictions.of(p, names, likelihood == "bernoulli")
    else:
        names = list(classes or pool.classes)
    version = version or type(model).__name__
    root = None if document_root is None else Path(document_root)
    several = likelihood == "bernoulli"
    files = Files(pool, picks, values, predictions, names, several, by, version, root)
    files.write(Path(out))
    return Path(out)


def check_classes(names: list[str], n_outputs: int) -> list[str]:
    """Names for the outputs of a model: those given, or numbers where there are none.

    Raises:
        ValueError: They are not as many, not different, or not printable.
    """
    names = names or [str(i) for i in range(n_outputs)]
    for name in names:
        if not name.isprintable():
            raise ValueError(f"classes must be printable UTF-8; got {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"classes must differ; got {', '.join(names)}")
    if len(names) != n_outputs:
        raise ValueError(
            f"the model tells {n_outputs} classes apart, but there are {len(names)} names: "
            f"{', '.join(names[:8])}; give --classes in the order of the model's outputs"
        )
    return names


@dataclass(frozen=True)
class Files:
    """What is to be written.

    Attributes:
        pool: That was picked from.
        picks: Indices into it, in the order picked.
        scores: Of the picks; None where a strategy has none.
        predictions: Of a model; None without one.
        classes: Names of the labels.
        several: Whether a sample has several labels.
        by: Who picked.
        version: Of the model.
        root: The label tool's document root, if it is set already.
    """

    pool: OwnPool
    picks: list[int]
    scores: Sequence[float | None]
    predictions: Predictions | None
    classes: Sequence[str]
    several: bool
    by: str
    version: str
    root: Path | None = None

    def write(self, out: Path) -> None:
        """Write the folder, whole or not at all.

        Raises:
            ValueError: The label tool's root is not above the images.
            OSError: It cannot be written, or is there already.
        """
        rows = self._rows()
        self.places(out)
        with folder_written_whole(out) as draft:
            write_csv(draft / PICKS_FILE, list(rows[0]), [list(row.values()) for row in rows])
            self._write_tasks(draft, rows, out)
            self._write_pool(draft)
            write_notes(draft, self.pool.notes)
            write_copies(self.copies, draft)
            if self.images:
                self._draw(draft / GRID_NAME, rows)

    @cached_property
    def images(self) -> list[Path]:
        """Picked images, in the order picked."""
        names = (self.pool.names[i] for i in self.picks)
        return [name for name in names if isinstance(name, Path)]

    @cached_property
    def copies(self) -> dict[Path, Path]:
        """Of picks that no browser shows: the name of a copy."""
        return without_browsers(self.images)

    def places(self, out: Path) -> label_studio.Places | None:
        """What a server of the label tool is to be told; None where there are no images."""
        found = self.pool.found
        if not isinstance(found, OwnImages):
            return None
        copies = Path(os.path.abspath(out / COPIES)) if self.copies else None
        return label_studio.places(found.root, found.unlabeled, self.root, copies)

    def _rows(self) -> list[dict[str, Any]]:
        table = self.pool.found if isinstance(self.pool.found, OwnTable) else None
        rows: list[dict[str, Any]] = []
        for rank, (index, score) in enumerate(zip(self.picks, self.scores, strict=True), 1):
            name = self.pool.names[index]
            row: dict[str, Any] = (
                {"path": path_cell(name)} if isinstance(name, Path) else {"row": name}
            )
            row |= {"rank": rank, "score": "" if score is None else f"{score:.6g}"}
            if self.predictions is not None:
                row["predicted"] = "; ".join(self.predictions.labels[rank - 1])
                row["probability"] = f"{self.predictions.probabilities[rank - 1]:.3f}"
            if table is not None and isinstance(name, int):
                cells = table.cells([name - 1])[0]
                row |= {
                    key if key not in row and key else f"column {key}": cell
                    for key, cell in cells.items()
                }
            rows.append(row)
        return rows

    def _write_tasks(self, draft: Path, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
        folder = Path(os.path.abspath(out))
        pool = str(folder / POOL_FILE)
        server = self.places(out)
        tasks = []
        for place, row in enumerate(rows):
            name = self.pool.names[self.picks[place]]
            more = {"rank": row["rank"], "pool": pool}
            guess = None
            if self.predictions is not None:
                guess = label_studio.Guess(
                    self.predictions.labels[place],
                    self.predictions.probabilities[place],
                    self.version,
                )
            if isinstance(name, Path):
                assert server is not None
                copy = None
                if name in self.copies and folder / COPIES in server.storages:
                    copy = folder / self.copies[name]
                data = label_studio.image_data(name, server.root, copy)
                shown = data | {"path": row["path"]}
            else:
                assert isinstance(self.pool.found, OwnTable)
                cells = self.pool.found.cells([name - 1])[0]
                shown = label_studio.row_data(cells, self.pool.found.text) | {"row": name}
            tasks.append(label_studio.task(shown | more, self.pool.kind, guess))
        replace_file(draft / TASKS_FILE, (json.dumps(tasks, indent=2) + "\n").encode())
        if self.classes:
            said = label_studio.configuration(self.classes, self.several, self.pool.kind)
            replace_file(draft / LABELS_FILE, said.encode())

    def _write_pool(self, draft: Path) -> None:
        """Every sample and its label so far: what ``import-labels`` adds labels to."""
        found = self.pool.found
        if isinstance(found, OwnTable):
            names = [*(n for n in found.table.names if n != found.label), "label"]
            known = dict(zip(found.labeled, found.labels, strict=True))
            cells = found.cells(range(len(found.table.cells)))
            write_csv(
                draft / POOL_FILE,
                names,
                [[*row.values(), known.get(i, "")] for i, row in enumerate(cells)],
            )
            return
        labels = zip(found.labeled, found.labels, strict=True)
        rows = [*((path, "") for path in found.unlabeled), *labels]
        lines = [(path_cell(Path(os.path.abspath(path))), label) for path, label in rows]
        write_csv(draft / POOL_FILE, ["path", "label"], lines)

    def _draw(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        size = SHOWN_SIZE if self.pool.look is None else self.pool.look.size
        shown = [str(each) for each in self.images[:MOST_SHOWN]]
        images = FolderImages(shown, size, eight_bits=True)
        captions = [
            f"{row['rank']}. {row.get('predicted', '')} {row.get('probability', '')}".rstrip()
            for row in rows
        ]
        title = f"{len(rows)} picks by {self.by}"
        if self.predictions is not None:
            title += ", with predicted classes"
        pictures = torch.stack([images[i] for i in range(len(images))])
        image_grid(list(pictures), captions, title, path)
