"""`select --embeddings`: picks without a network, and what is written of them."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fishermask_fast.datasets import write_csv
from fishermask_fast.files import folder_written_whole
from fishermask_fast.labeling.asked import (
    NAME,
    ROW,
    Asked,
    Key,
    Names,
)
from fishermask_fast.labeling.embeddings import (
    OwnEmbeddings,
    check_embeddings,
    pick_embeddings,
    read_embeddings,
    read_eval_embeddings,
    unread_of_embeddings,
)
from fishermask_fast.labeling.output import PICKS_FILE, Predictions, check_classes
from fishermask_fast.models import find_device
from fishermask_fast.options import SelectOptions
from fishermask_fast.strategies import check_samples

logger = logging.getLogger(__name__)

_OF_SAMPLES = ("device", "image_size", "mean", "std", "label_column")
_DEFAULTS = {each.name: each.default for each in fields(SelectOptions)}


def select_embeddings(options: SelectOptions) -> None:
    """Pick from a file of embeddings, by one process: it is read in no time.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    find_device(options.device)  # what is not read is right nevertheless
    found = read_embeddings(cast(Path, options.embeddings))
    if options.n > len(found.unlabeled):
        raise ValueError(
            f"n must be at most the {len(found.unlabeled)} unlabeled samples; got {options.n}"
        )
    samples = _asked(options, found).places(options.n, found.unlabeled.tolist(), slice(None), _say)
    if options.eval_data is not None:
        samples = replace(samples, eval_data=read_eval_embeddings(options.eval_data, found))
    query = replace(options.query, progress=True, samples=samples)
    check_samples(options.strategy, query)
    if ignored := unread_of_embeddings(options.strategy, query):
        logger.warning("strategy %s does not read %s", options.strategy, ", ".join(ignored))
    if ignored := [each for each in _OF_SAMPLES if getattr(options, each) != _DEFAULTS[each]]:
        logger.warning("--embeddings does not read %s", ", ".join(ignored))
    check_embeddings(found, options.strategy, query)
    classes = check_classes(list(options.classes or ()), found.probabilities.shape[1])
    if options.dry_run:
        n_classes, n_features = found.probabilities.shape[1], found.embeddings.shape[1]
        print(
            f"{options.n:,} picks by {options.strategy}, a head of {n_classes:,} x {n_features:,}"
        )
        print(_embedding_counts(found))
        print("nothing was written")
        return
    picks = pick_embeddings(found, options.n, options.strategy, options.seed, query)
    rows = found.unlabeled[picks.indices]
    several = query.likelihood == "bernoulli"
    predictions = Predictions.of(found.probabilities[rows], classes, several)
    scores = picks.info.get("scores") or [None] * len(rows)
    header = ["row", *(["name"] if found.names else [])]
    lines = []
    for rank, (row, score, labels, p) in enumerate(
        zip(rows.tolist(), scores, predictions.labels, predictions.probabilities, strict=True),
        1,
    ):
        named = [found.names[row]] if found.names else []
        said = "" if score is None else f"{score:.6g}"
        lines.append([row, *named, rank, said, "; ".join(labels), f"{p:.3f}"])
    with folder_written_whole(options.out) as draft:
        write_csv(draft / PICKS_FILE, [*header, "rank", "score", "predicted", "probability"], lines)
    print(_embedding_counts(found))
    print(f"picks         {options.out / PICKS_FILE}")


def _embedding_counts(found: OwnEmbeddings) -> str:
    return f"{len(found.unlabeled):,} unlabeled rows and {len(found.labeled):,} labeled ones"


def _asked(options: SelectOptions, found: OwnEmbeddings) -> Asked:
    """What flags ask of single rows."""
    rows: dict[str, Key] = {str(row): row for row in found.unlabeled.tolist()}
    free: dict[str, dict[str, Key]] = {ROW: rows}
    labeled = {ROW: frozenset(map(str, found.labeled.tolist()))}
    # Names that several share tell nobody apart.
    if found.names is not None and len(set(found.names)) == len(found.names):
        names = found.names
        free |= {NAME: {names[row]: row for row in found.unlabeled.tolist()}}
        labeled |= {NAME: frozenset(names[row] for row in found.labeled.tolist())}
    lists = Names("row", free, labeled)
    return Asked.read(options, lists, partial(_cells, options, found), _say)


def _cells(
    options: SelectOptions, found: OwnEmbeddings, flag: str, name: str
) -> dict[Key, tuple[str, str]]:
    """Of each unlabeled row: where it stands, and what an array of the file says of it."""
    array = found.arrays.get(name)
    n = len(found.embeddings)
    if array is None:
        has = ", ".join(found.arrays) or "none"
        raise ValueError(
            f"--{flag} must be an array of {options.embeddings} beside the embeddings, which has "
            f"{has}; got {name!r}"
        )
    if isinstance(array, Tensor) and (array.ndim != 1 or array.dtype == torch.bool):
        raise ValueError(f"{options.embeddings}: {name} must be ({n},) numbers or texts")
    if len(array) != n:
        raise ValueError(f"{options.embeddings}: {name} must be of {n:,} rows; got {len(array):,}")
    values = [str(each) for each in (array.tolist() if isinstance(array, Tensor) else array)]
    return {
        row: (f"{options.embeddings}, row {row}", values[row]) for row in found.unlabeled.tolist()
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr)
