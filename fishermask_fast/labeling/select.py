"""``fishermask-fast select``: which of one's own images to label next.

The output folder appears whole, when everything is done, or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fishermask_fast.datasets import (
    SKIPPED,
    LabeledSamples,
    Note,
    evaluation_transform,
    summary,
)
from fishermask_fast.files import folder_written_whole, replace_file
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.checkpoints import load_model
from fishermask_fast.labeling.csv_files import path_cell, printable, write_csv
from fishermask_fast.labeling.images import (
    OwnImages,
    ReadImages,
    from_csv,
    from_folders,
    read_images,
)
from fishermask_fast.models import find_device
from fishermask_fast.network import call, evaluating
from fishermask_fast.options import SelectOptions
from fishermask_fast.plotting import MOST_SHOWN, image_grid
from fishermask_fast.strategies import (
    STRATEGIES,
    Picks,
    check,
    predict,
)

PICKS_FILE, GRID_NAME, POOL_FILE = "picks.csv", "picks", "pool.csv"
TASKS_FILE, LABELS_FILE = "label_studio.json", "label_studio.xml"


def select_images(options: SelectOptions) -> None:
    """Pick what the options ask for, and write it.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    import_module("matplotlib")
    progress = sys.stderr.isatty()
    out = options.out
    _check_free(out)
    images = _find(options)
    size = options.image_size
    model = load_model(options.model, options.checkpoint, size)
    classes = _classes(options, images, model)
    query = replace(options.query, progress=progress)
    if query.likelihood == "gaussian":
        raise ValueError(
            "likelihood must be categorical or bernoulli, as picks are written with predicted "
            "classes; for a regression use FisherMaskSelector from Python"
        )
    check(options.strategy, model, len(classes), query)
    model.to(find_device(options.device))
    _check_enough(options.n, len(images.unlabeled))

    pool = read_images(images.unlabeled, size, "unlabeled images", progress)
    _check_enough(options.n, len(pool.paths))
    labeled = None
    if images.labeled:
        labeled = read_images(images.labeled, size, "labeled images", progress)
    notes = [*images.notes, *pool.notes, *(labeled.notes if labeled else ())]
    for line in summary(notes):
        print(printable(line), file=sys.stderr)

    transform = evaluation_transform(options.mean, options.std)

    def seen(part: ReadImages | None) -> LabeledSamples:
        source = torch.empty(0, 3, size, size) if part is None else part.source
        return LabeledSamples(source, torch.zeros(len(source), dtype=torch.int64), transform)

    samples = seen(pool)
    strategy = STRATEGIES[options.strategy]
    picks = strategy(model, samples, seen(labeled), options.n, options.seed, query)
    probabilities = predict(
        model, samples.take(picks.indices), likelihood=query.likelihood or "categorical"
    )[0].exp()
    predicted = _predicted(probabilities, classes, several=query.likelihood == "bernoulli")
    rows = _rows(pool, picks, predicted, probabilities)
    server = label_studio.places(images.root, images.unlabeled)
    with folder_written_whole(out) as draft:
        write_csv(draft / PICKS_FILE, list(rows[0]), [list(row.values()) for row in rows])
        _write_label_studio(draft, rows, predicted, classes, server.root, options)
        _write_pool(draft, images)
        _write_notes(draft, notes)
        shown = picks.indices[:MOST_SHOWN].tolist()
        captions = [f"{row['rank']}. {row['predicted']} {row['probability']}" for row in rows]
        title = f"{len(rows)} picks by {options.strategy}, with predicted classes"
        image_grid(list(samples.stored(shown)), captions, title, draft / GRID_NAME)
    _tell(out, server, pool, labeled, notes)


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} exists already; name another folder with --out")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be made; {parent} cannot be written to")


def _find(options: SelectOptions) -> OwnImages:
    if options.unlabeled is None:
        return from_csv(cast(Path, options.csv))
    return from_folders(options.unlabeled, options.labeled)


def _classes(options: SelectOptions, images: OwnImages, model: nn.Module) -> list[str]:
    with evaluating(model) as net, torch.no_grad():
        n_outputs = call(net, torch.zeros(1, 3, options.image_size, options.image_size)).shape[1]
    names = list(options.classes or images.classes or map(str, range(n_outputs)))
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


def _check_enough(n: int, available: int) -> None:
    if n > available:
        raise ValueError(f"n must be at most the {available} unlabeled images; got {n}")


def _predicted(probabilities: Tensor, classes: list[str], several: bool) -> list[list[str]]:
    """Names of what each sample is taken for: the likeliest class, or all labels above a half."""
    if not several:
        return [[classes[i]] for i in probabilities.argmax(1).tolist()]
    return [
        [name for name, present in zip(classes, row, strict=True) if present]
        for row in (probabilities > 0.5).tolist()
    ]


def _rows(
    pool: ReadImages, picks: Picks, predicted: list[list[str]], probabilities: Tensor
) -> list[dict[str, Any]]:
    scores = picks.info.get("scores", [""] * len(picks.indices))
    return [
        {
            "path": path_cell(pool.paths[index]),
            "rank": rank,
            "score": score if score == "" else f"{score:.6g}",
            "predicted": "; ".join(names),
            "probability": f"{probability:.3f}",
        }
        for rank, (index, score, names, probability) in enumerate(
            zip(
                picks.indices.tolist(),
                scores,
                predicted,
                probabilities.amax(1).tolist(),
                strict=True,
            ),
            1,
        )
    ]


def _write_label_studio(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    predicted: Sequence[list[str]],
    classes: Sequence[str],
    root: Path,
    options: SelectOptions,
) -> None:
    pool = os.path.abspath(options.out / POOL_FILE)
    tasks = [
        label_studio.task(
            Path(row["path"]),
            root,
            names,
            float(row["probability"]),
            options.model,
            {"path": row["path"], "rank": row["rank"], "pool": pool},
        )
        for row, names in zip(rows, predicted, strict=True)
    ]
    replace_file(folder / TASKS_FILE, (json.dumps(tasks, indent=2) + "\n").encode())
    several = options.query.likelihood == "bernoulli"
    replace_file(folder / LABELS_FILE, label_studio.configuration(classes, several).encode())


def _write_pool(folder: Path, images: OwnImages) -> None:
    """Every image and its label so far: what ``import-labels`` adds labels to."""
    labels = zip(images.labeled, images.labels, strict=True)
    rows = [*((path, "") for path in images.unlabeled), *labels]
    cells = [(path_cell(Path(os.path.abspath(path))), label) for path, label in rows]
    write_csv(folder / POOL_FILE, ["path", "label"], cells)


def _tell(
    out: Path,
    server: label_studio.Places,
    pool: ReadImages,
    labeled: ReadImages | None,
    notes: Sequence[Note],
) -> None:
    n_labeled = 0 if labeled is None else len(labeled.paths)
    print(f"{len(pool.paths):,} unlabeled images and {n_labeled:,} labeled ones")
    print(f"picks         {out / PICKS_FILE}\npicture       {out / GRID_NAME}.png")
    storages = ", ".join(map(str, server.storages))
    print(
        printable(
            f"label studio  {out / TASKS_FILE}, labelling configuration {out / LABELS_FILE};\n"
            f"              a server with LOCAL_FILES_SERVING_ENABLED=true and "
            f"LOCAL_FILES_DOCUMENT_ROOT={server.root}\n"
            f"              shows them once the project has a Local Files storage of {storages}"
        )
    )
    for name, some in _sorted_notes(notes).items():
        if some:
            print(f"{name:<13} {len(some):,}, listed in {out / name}.csv")


def _sorted_notes(notes: Sequence[Note]) -> dict[str, list[Note]]:
    """What was left out, and what was taken otherwise than it lies there; by the file's name."""
    skipped = [note for note in notes if note.what == SKIPPED]
    return {"skipped": skipped, "converted": [note for note in notes if note.what != SKIPPED]}


def _write_notes(folder: Path, notes: Sequence[Note]) -> None:
    for name, some in _sorted_notes(notes).items():
        if some:
            rows = [(path_cell(note.path), note.reason, note.what) for note in some]
            write_csv(folder / f"{name}.csv", ["path", "reason", "what"], rows)
