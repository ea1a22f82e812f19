"""``fishermask-fast select``: which of one's own samples to label next.

Started by torchrun, each process reads its own part of the pool, all of them pick together, and the
first writes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from fishermask_fast.datasets import summary
from fishermask_fast.distributed import Ranks
from fishermask_fast.inspection import inspect_model
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.asked import Asked, label_places
from fishermask_fast.labeling.images import OwnImages, from_folders
from fishermask_fast.labeling.no_network import select_embeddings
from fishermask_fast.labeling.output import (
    Files,
    Predictions,
    check_classes,
)
from fishermask_fast.labeling.pools import OwnPool, eval_samples, find_in_table, pool_of
from fishermask_fast.labeling.tables import USUAL_LABEL, OwnTable
from fishermask_fast.labeling.telling import tell, tell_of_a_query
from fishermask_fast.labeling.trained import Kind, Look, Trained, load_trained
from fishermask_fast.models import find_device
from fishermask_fast.network import (
    Inputs,
    Pool,
    device_of,
    evaluating,
    input_dtype,
    raw_outputs,
    to_model,
)
from fishermask_fast.options import QueryOptions, SelectOptions
from fishermask_fast.strategies import (
    Forecast,
    Picks,
    announce,
    check,
    check_samples,
    estimated,
    pick,
    predict,
    unread,
)

logger = logging.getLogger(__name__)


def select_samples(options: SelectOptions) -> None:
    """Pick what the options ask for, and write it.

    Raises:
        ValueError: Something that the user can set right; nothing is written then.
    """
    import_module("matplotlib")
    if not options.inspect:
        _check_free(options.out)
    with _processes(options) as ranks:
        if options.embeddings is not None:
            ranks.attempt(lambda: None if ranks.number else select_embeddings(options))
        else:
            _select(options, ranks)


def _select(options: SelectOptions, ranks: Ranks) -> None:
    # What fails for one process, such as a file that its machine lacks, ends all.
    found, look, trained, query, names = ranks.attempt(lambda: _begin(options, ranks))
    kind = _kind(found)
    say = _say if ranks.number == 0 else _say_nothing
    asked = ranks.attempt(lambda: Asked.of(options, found, say))
    size, rank = ranks.size, ranks.number

    def part(n: int) -> slice:
        return slice(rank * n // size, (rank + 1) * n // size)

    logger.info("reading")
    pool = pool_of(found, look, trained.prepare, progress=query.progress, ranks=ranks, part=part)
    _check_enough(options.n, len(pool), kind)
    counts = ranks.everyone(len(pool.unlabeled))  # type: ignore[arg-type]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    query = replace(query, samples=asked.places(options.n, pool.names, mine, say))
    notes = pool.notes
    if options.eval_data is not None:
        aimed, more = eval_samples(
            options.eval_data,
            pool,
            trained.prepare,
            progress=query.progress,
            ranks=ranks,
            part=part,
        )
        notes = (*notes, *more)
        query = replace(query, samples=replace(query.samples, eval_data=aimed))
    check_samples(options.strategy, query)
    if rank == 0:
        for line in summary(notes):
            say(line)
        if ignored := unread(options.strategy, query):
            logger.warning("strategy %s does not read %s", options.strategy, ", ".join(ignored))
        _tell_unread(options, kind, trained)

    def checked() -> list[str]:
        if trained.prepare is None or not len(pool.unlabeled):  # type: ignore[arg-type]
            return names
        some = Pool.of(pool.unlabeled, "pool").first(1)
        return _checked(options, names, trained, query, some)

    classes = max(ranks.everyone(ranks.attempt(checked)), key=len)
    if query.class_weight is not None:
        known = ranks.attempt(lambda: label_places(pool.known, classes))
        query = replace(query, samples=replace(query.samples, labels=known))
    labeled: Any = pool.labeled if pool.labeled is not None else Subset(pool.unlabeled, [])
    if options.inspect:
        _inspect(trained, pool, query)
        return
    need = ranks.attempt(lambda: _estimated(options, trained, pool, labeled, query, ranks))
    if options.dry_run:
        tell_of_a_query(options, pool, trained, need)
    announce(need, query, resized=kind == "images" and trained.prepare is None)
    if options.dry_run:
        return
    logger.info("query: %d picks of %d by %s", options.n, len(pool), options.strategy)
    picks = pick(
        options.strategy, trained.model, pool.unlabeled, labeled, options.n, options.seed, query
    )
    for step, seconds in picks.info.get("seconds", {}).items():
        logger.info("%s took %.2f s", step, seconds)
    p = _probabilities(trained.model, pool, picks, query, ranks)
    if rank == 0:
        several = query.likelihood == "bernoulli"
        files = Files(
            pool,
            picks.indices.tolist(),
            picks.info.get("scores") or [None] * len(picks.indices),
            Predictions.of(p, classes, several),
            classes,
            several,
            options.strategy,
            trained.name,
            options.document_root,
        )
        logger.info("writing %s", options.out)
        files.write(options.out)
        tell(options.out, pool, files)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _tell_unread(options: SelectOptions, kind: Kind, trained: Trained) -> None:
    """Warn of options for samples of another kind, or for networks without a preparation."""
    given = [each for each in ("image_size", "mean", "std") if getattr(options, each) is not None]
    if given and (kind != "images" or trained.prepare is not None):
        by = (
            f"what prepares images for {trained.name}" if kind == "images" else "--csv without path"
        )
        logger.warning("%s does not read %s", by, ", ".join(given))
    if options.unlabeled is not None and options.label_column != USUAL_LABEL:
        logger.warning("--unlabeled does not read label_column")


def _say_nothing(line: str) -> None:
    """Of several processes the first speaks."""


def _begin(
    options: SelectOptions, ranks: Ranks
) -> tuple[OwnImages | OwnTable, Look, Trained, QueryOptions, list[str]]:
    """What is found, how it is seen, by which model, how picked, and the names of its outputs."""
    name = cast(str, options.model)
    found = _find(options)
    if isinstance(found, OwnImages):
        label_studio.places(found.root, found.unlabeled, options.document_root)
    elif options.document_root is not None:
        raise ValueError("--document-root is where Label Studio finds images; it needs some")
    look = Look.of(name, options.image_size, options.mean, options.std)
    shape: tuple[int, ...] = (3, look.size, look.size)
    if isinstance(found, OwnTable):
        shape = () if found.text else (len(found.columns()),)
    logger.info("found %d to pick from, %d labeled", len(found.unlabeled), len(found.labeled))
    trained = load_trained(name, options.checkpoint, _kind(found), shape)
    logger.info("model %s: %d parameters", name, sum(p.numel() for p in trained.model.parameters()))
    query = _query(options, trained, ranks)
    names = list(options.classes or trained.classes or _label_names(found.classes, query))
    if trained.prepare is None:
        names = _checked(options, names, trained, query, torch.zeros(1, *shape))
    trained.model.to(find_device(_device(options, ranks)))
    _check_enough(options.n, len(found.unlabeled), _kind(found))
    return found, look, trained, query, names


def _kind(found: OwnImages | OwnTable) -> Kind:
    if isinstance(found, OwnImages):
        return "images"
    return "texts" if found.text else "table"


def _estimated(
    options: SelectOptions,
    trained: Trained,
    pool: OwnPool,
    labeled: Any,
    query: QueryOptions,
    ranks: Ranks,
) -> Forecast | None:
    """What the query will take; of several processes the first tells it by its own part."""
    if ranks.number:
        return None
    share = -(-query.fisher_samples // ranks.size)
    return estimated(
        options.strategy,
        trained.model,
        pool.unlabeled,
        labeled,
        options.n,
        options.seed,
        replace(query, group=None, progress=False, fisher_samples=share),
        always=options.dry_run,
    )


@contextmanager
def _processes(options: SelectOptions) -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Ranks(None)
        return
    if options.dry_run or options.inspect:
        raise ValueError("--dry-run and --inspect are for one process")
    import torch.distributed as dist

    on_gpu = find_device(_device(options, None)).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _device(options: SelectOptions, ranks: Ranks | None) -> str | None:
    """The device asked for; of several processes on GPUs each takes its own."""
    if options.device is None and torch.cuda.is_available() and ranks and not ranks.alone:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return options.device


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} exists already; name another folder with --out")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be made; {parent} cannot be written to")


def _find(options: SelectOptions) -> OwnImages | OwnTable:
    if options.unlabeled is not None:
        return from_folders(options.unlabeled, options.labeled)
    aside = [each for each in (options.cluster_column, options.cost_column) if each is not None]
    return find_in_table(cast(Path, options.csv), options.label_column, aside)


def _label_names(classes: Sequence[str], query: QueryOptions) -> list[str]:
    """Names of labels, of which a sample may have several."""
    if query.likelihood != "bernoulli":
        return list(classes)
    return sorted({name for each in classes for name in each.split(label_studio.BETWEEN)})


def _query(options: SelectOptions, trained: Trained, ranks: Ranks) -> QueryOptions:
    query = replace(options.query, progress=ranks.number == 0, group=ranks.group)
    if query.likelihood is None and trained.likelihood is not None:
        query = replace(query, likelihood=trained.likelihood)
    if query.likelihood == "gaussian":
        raise ValueError(
            "likelihood must be categorical or bernoulli, as picks are written with predicted "
            "classes; for a regression use FisherMaskSelector from Python"
        )
    return query


def _checked(
    options: SelectOptions, names: list[str], trained: Trained, query: QueryOptions, some: Inputs
) -> list[str]:
    """Names of the outputs, once they and the strategy are known to fit the model."""
    with evaluating(trained.model) as net, torch.no_grad():
        inputs = to_model(some, device_of(net), input_dtype(net, some))
        try:
            n_outputs = raw_outputs(net, inputs).shape[1]
        # A model that was not made for such samples can fail with anything.
        except (RuntimeError, IndexError, TypeError, AssertionError) as error:
            shown = tuple(some.shape[1:]) if isinstance(some, Tensor) else sorted(some)
            raise ValueError(
                f"{trained.name} does not take samples {shown}: {' '.join(str(error).split())}"
            ) from error
    classes = check_classes(names, n_outputs)
    check(options.strategy, trained.model, n_outputs, query)
    return classes


def _check_enough(n: int, available: int, kind: str) -> None:
    if n > available:
        what = "images" if kind == "images" else "samples"
        raise ValueError(f"n must be at most the {available} unlabeled {what}; got {n}")


def _probabilities(
    model: nn.Module, pool: OwnPool, picks: Picks, query: QueryOptions, ranks: Ranks
) -> Tensor:
    """(n, C) of the picks, each predicted by the process that has it."""
    counts = ranks.everyone(len(pool.unlabeled))  # type: ignore[arg-type]
    start = sum(counts[: ranks.number])
    own = ((picks.indices >= start) & (picks.indices < start + counts[ranks.number])).nonzero()
    places = own.flatten()

    def predicted() -> Tensor | None:
        if not len(places):
            return None
        some: Dataset[Any] = Subset(pool.unlabeled, (picks.indices[places] - start).tolist())
        return predict(model, some, likelihood=query.likelihood or "categorical")[0].exp()

    told = ranks.everyone((places, ranks.attempt(predicted)))
    parts = [(at, p) for at, p in told if p is not None]
    found = parts[0][1].new_empty(len(picks.indices), parts[0][1].shape[1])
    for at, p in parts:
        found[at] = p
    return found


def _inspect(trained: Trained, pool: OwnPool, query: QueryOptions) -> None:
    some = Pool.of(pool.unlabeled, "pool").first(3)
    report = inspect_model(
        trained.model,
        some,
        likelihood=query.likelihood or "categorical",
        head=query.head,
        lamb=query.lamb if isinstance(query.lamb, (int, float)) else 1.0,
    )
    print(report)
