"""``fishermask-fast select``: which of one's own images to label next.

The output folder appears whole, when everything is done, or not at all.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import nn

from fishermask_fast.datasets import PHOTO_MEAN, PHOTO_STD, LabelledSamples, evaluation_transform
from fishermask_fast.labeling import images as own_data
from fishermask_fast.labeling.checkpoints import load_model
from fishermask_fast.labeling.images import OwnImages, ReadImages
from fishermask_fast.loop.run.arguments import add_query_options
from fishermask_fast.models import find_device
from fishermask_fast.network import call, evaluating
from fishermask_fast.plotting import MOST_SHOWN, image_grid
from fishermask_fast.strategies import (
    STRATEGIES,
    Picks,
    QueryOptions,
    check,
    predict,
)

PICKS_FILE, GRID_NAME, TASKS_FILE, SKIPPED_FILE = (
    "picks.csv",
    "picks",
    "label_studio.json",
    "skipped.csv",
)


def add_select_options(parser: argparse.ArgumentParser) -> None:
    """All flags of ``fishermask-fast select``."""
    images = parser.add_argument_group("images")
    images.add_argument("--unlabeled", help="folder of images to pick from, at any depth")
    images.add_argument("--labeled", help="folder that holds one folder of images per class")
    images.add_argument(
        "--csv",
        help="instead of folders: a CSV with columns path and label, the label empty where there "
        "is none; paths relative to it",
    )
    images.add_argument(
        "--image-size", type=int, default=224, help="images are resized and cropped to this side"
    )
    images.add_argument("--mean", type=float, nargs=3, default=PHOTO_MEAN, help="of the channels")
    images.add_argument(
        "--std", type=float, nargs=3, default=PHOTO_STD, help="of the channels, on the scale 0 to 1"
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", required=True, help="torchvision classifier, such as resnet18, or resnet18_small"
    )
    model.add_argument(
        "--checkpoint", required=True, help="its weights: a file of torch.save(model.state_dict())"
    )
    model.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names in the order of the model's outputs (default: labels in alphabetical order)",
    )
    model.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    picking = parser.add_argument_group("picking")
    picking.add_argument("-n", "--n", type=int, required=True, help="images to pick")
    picking.add_argument(
        "--strategy", choices=list(STRATEGIES), default="fishermask", help="who picks"
    )
    picking.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    picking.add_argument("--out", default="picks", help="folder to write; must not exist")
    add_query_options(picking)


def select(arguments: argparse.Namespace) -> None:
    """Pick what the arguments ask for, and write it.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    import_module("matplotlib")
    progress = sys.stderr.isatty()
    out = Path(arguments.out)
    _check_free(out)
    if arguments.n < 1:
        raise ValueError(f"n must be at least 1; got {arguments.n}")
    if arguments.seed < 0:
        raise ValueError(f"seed must be at least 0; got {arguments.seed}")
    images = _find(arguments)
    size = _size(arguments)
    model = load_model(arguments.model, Path(arguments.checkpoint), size)
    classes = _classes(arguments, images, model, size)
    options = _options(arguments, progress)
    check(arguments.strategy, model, len(classes), options)
    model.to(find_device(arguments.device))
    _check_enough(arguments.n, len(images.unlabelled))

    pool = own_data.read_images(images.unlabelled, size, "unlabelled images", progress)
    _check_enough(arguments.n, len(pool.paths))
    labelled = None
    if images.labelled:
        labelled = own_data.read_images(images.labelled, size, "labelled images", progress)
    skipped = [*pool.skipped, *(labelled.skipped if labelled else ())]
    for path, reason in skipped:
        print(_printable(f"skipped  {path}: {reason}"), file=sys.stderr)

    transform = evaluation_transform(arguments.mean, arguments.std)

    def seen(part: ReadImages | None) -> LabelledSamples:
        source = torch.empty(0, 3, size, size) if part is None else part.source
        return LabelledSamples(source, torch.zeros(len(source), dtype=torch.int64), transform)

    samples = seen(pool)
    strategy = STRATEGIES[arguments.strategy]
    picks = strategy(model, samples, seen(labelled), arguments.n, arguments.seed, options)
    rows = _rows(model, samples, pool, picks, classes)
    with _appearing(out) as draft:
        _write_csv(draft / PICKS_FILE, list(rows[0]), [list(row.values()) for row in rows])
        tasks = _tasks(rows, images.root, arguments)
        (draft / TASKS_FILE).write_text(json.dumps(tasks, indent=2) + "\n", encoding="utf-8")
        if skipped:
            _write_csv(draft / SKIPPED_FILE, ["path", "reason"], skipped)
        shown = picks.indices[:MOST_SHOWN].tolist()
        captions = [f"{row['rank']}. {row['predicted']} {row['probability']}" for row in rows]
        title = f"{len(rows)} picks by {arguments.strategy}, with predicted classes"
        image_grid(list(samples.stored(shown)), captions, title, draft / GRID_NAME)
    _tell(out, images, pool, labelled, skipped)


def _check_free(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder with --out")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be made; {parent} cannot be written to")


def _find(arguments: argparse.Namespace) -> OwnImages:
    if (arguments.csv is None) == (arguments.unlabeled is None):
        raise ValueError("give --unlabeled (and --labeled) folders, or --csv; one of the two")
    if arguments.csv is not None:
        if arguments.labeled is not None:
            raise ValueError("--labeled goes with --unlabeled; a CSV has its labels in a column")
        return own_data.from_csv(Path(arguments.csv))
    labelled = None if arguments.labeled is None else Path(arguments.labeled)
    return own_data.from_folders(Path(arguments.unlabeled), labelled)


def _size(arguments: argparse.Namespace) -> int:
    size = int(arguments.image_size)
    if size < 1:
        raise ValueError(f"image_size must be at least 1; got {size}")
    for name in ("mean", "std"):
        values = getattr(arguments, name)
        if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            expected = "finite and above 0" if name == "std" else "finite"
            raise ValueError(f"{name} must be {expected}; got {' '.join(map(str, values))}")
    return size


def _classes(
    arguments: argparse.Namespace, images: OwnImages, model: nn.Module, size: int
) -> list[str]:
    with evaluating(model) as net, torch.no_grad():
        n_outputs = call(net, torch.zeros(1, 3, size, size)).shape[1]
    names = list(arguments.classes or images.classes or map(str, range(n_outputs)))
    if len(set(names)) < len(names):
        raise ValueError(f"classes must differ; got {', '.join(names)}")
    if len(names) != n_outputs:
        raise ValueError(
            f"the model tells {n_outputs} classes apart, but there are {len(names)} names: "
            f"{', '.join(names[:8])}; give --classes in the order of the model's outputs"
        )
    return names


def _options(arguments: argparse.Namespace, progress: bool) -> QueryOptions:
    return QueryOptions(
        fraction=arguments.fraction,
        n_parameters=arguments.n_parameters,
        mask=arguments.mask,
        keep_head=arguments.keep_head,
        head=arguments.head,
        weighting=arguments.weighting,
        lamb=arguments.lamb,
        fisher_samples=arguments.fisher_samples,
        rank=arguments.rank,
        batch_size=arguments.batch_size,
        progress=progress,
    )


def _check_enough(n: int, available: int) -> None:
    if n > available:
        raise ValueError(f"n must be at most the {available} unlabelled images; got {n}")


def _rows(
    model: nn.Module, samples: LabelledSamples, pool: ReadImages, picks: Picks, classes: list[str]
) -> list[dict[str, Any]]:
    probabilities = predict(model, samples.take(picks.indices))[0].exp()
    best = probabilities.max(1)
    scores = picks.info.get("scores", [""] * len(picks.indices))
    return [
        {
            "path": str(pool.paths[index]),
            "rank": rank,
            "score": score if score == "" else f"{score:.6g}",
            "predicted": classes[label],
            "probability": f"{probability:.3f}",
        }
        for rank, (index, score, label, probability) in enumerate(
            zip(
                picks.indices.tolist(),
                scores,
                best.indices.tolist(),
                best.values.tolist(),
                strict=True,
            ),
            1,
        )
    ]


def _tasks(
    rows: Sequence[dict[str, Any]], root: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Label Studio's tasks, each with the model's prediction for a ``Choices`` named choice."""
    tasks = []
    for row in rows:
        relative = os.fsencode(os.path.relpath(row["path"], root))
        value = {"choices": [row["predicted"]]}
        result = {"from_name": "choice", "to_name": "image", "type": "choices", "value": value}
        prediction = {
            "model_version": arguments.model,
            "score": float(row["probability"]),
            "result": [result],
        }
        data = {
            "image": f"/data/local-files/?d={quote(relative)}",
            "path": row["path"],
            "rank": row["rank"],
        }
        tasks.append({"data": data, "predictions": [prediction]})
    return tasks


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    # A name that is not UTF-8 is written as the bytes that it is.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the block ends well, and goes otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _printable(text: str) -> str:
    """The text with what no terminal takes, half a character of a file's name, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _tell(
    out: Path,
    images: OwnImages,
    pool: ReadImages,
    labelled: ReadImages | None,
    skipped: Sequence[tuple[Path, str]],
) -> None:
    n_labelled = 0 if labelled is None else len(labelled.paths)
    print(f"{len(pool.paths):,} unlabelled images and {n_labelled:,} labelled ones")
    print(f"picks         {out / PICKS_FILE}\npicture       {out / GRID_NAME}.png")
    print(
        f"label studio  {out / TASKS_FILE}, for a server with LOCAL_FILES_SERVING_ENABLED=true and "
        + _printable(f"LOCAL_FILES_DOCUMENT_ROOT={images.root.resolve()}")
    )
    if skipped:
        print(f"skipped       {len(skipped)} unreadable images, listed in {out / SKIPPED_FILE}")
