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

from fishermask_fast.datasets import SKIPPED, Note, summary
from fishermask_fast.distributed import Ranks
from fishermask_fast.inspection import inspect_model
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.asked import Asked, label_places
from fishermask_fast.labeling.csv_files import printable
from fishermask_fast.labeling.images import OwnImages, from_folders
from fishermask_fast.labeling.no_network import select_embeddings
from fishermask_fast.labeling.output import (
    GRID_NAME,
    LABELS_FILE,
    PICKS_FILE,
    TASKS_FILE,
    Files,
    Predictions,
    check_classes,
    sorted_notes,
)
from fishermask_fast.labeling.pools import OwnPool, eval_samples, find_in_table, pool_of
from fishermask_fast.labeling.shown import COPIES
from fishermask_fast.labeling.tables import OwnTable
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
    if not (options.dry_run or options.inspect):
        _check_free(options.out)
    with _processes(options) as ranks:
        if options.embeddings is not None:
            ranks.attempt(lambda: None if ranks.number else select_embeddings(options))
        else:
            _select(options, ranks)


def _select(options: SelectOptions, ranks: Ranks) -> None:
    progress = ranks.number == 0
    name = cast(str, options.model)
    found = _find(options)
    if isinstance(found, OwnImages):
        label_studio.places(found.root, found.unlabeled, options.document_root)
    elif options.document_root is not None:
        raise ValueError("--document-root is where Label Studio finds images; it needs some")
    tell = _say if progress else _say_nothing
    asked = Asked.of(options, found, tell)
    look = Look.of(name, options.image_size, options.mean, options.std)
    kind: Kind = "images" if isinstance(found, OwnImages) else "texts" if found.text else "table"
    shape: tuple[int, ...] = (3, look.size, look.size)
    if isinstance(found, OwnTable):
        shape = () if found.text else (len(found.columns()),)
    logger.info("found %d to pick from, %d labeled", len(found.unlabeled), len(found.labeled))
    trained = load_trained(name, options.checkpoint, kind, shape)
    logger.info("model %s: %d parameters", name, sum(p.numel() for p in trained.model.parameters()))
    query = _query(options, trained, progress, ranks)
    names = list(options.classes or trained.classes or _label_names(found.classes, query))
    if trained.prepare is None:
        names = _checked(options, names, trained, query, torch.zeros(1, *shape))
    device = find_device(_device(options, ranks))
    trained.model.to(device)
    _check_enough(options.n, len(found.unlabeled), kind)
    size, rank = ranks.size, ranks.number

    def part(n: int) -> slice:
        return slice(rank * n // size, (rank + 1) * n // size)

    logger.info("reading")
    pool = pool_of(found, look, trained.prepare, progress=progress, ranks=ranks, part=part)
    _check_enough(options.n, len(pool), kind)
    counts = ranks.everyone(len(pool.unlabeled))  # type: ignore[arg-type]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    query = replace(query, samples=asked.places(options.n, pool.names, mine, tell))
    notes = pool.notes
    if options.eval_data is not None:
        aimed, more = eval_samples(
            options.eval_data, pool, trained.prepare, progress=progress, ranks=ranks, part=part
        )
        notes = (*notes, *more)
        query = replace(query, samples=replace(query.samples, eval_data=aimed))
    check_samples(options.strategy, query)
    if rank == 0:
        for line in summary(notes):
            _say(line)
        _warn_of_unread(options, query)
    if trained.prepare is not None and len(pool.unlabeled):  # type: ignore[arg-type]
        some = Pool.of(pool.unlabeled, "pool").first(1)
        names = _checked(options, names, trained, query, some)
    classes = max(ranks.everyone(names), key=len)
    if query.class_weight is not None:
        known = ranks.attempt(lambda: label_places(pool.known, classes))
        query = replace(query, samples=replace(query.samples, labels=known))
    labeled: Any = pool.labeled if pool.labeled is not None else Subset(pool.unlabeled, [])
    if options.inspect:
        _inspect(trained, pool, query)
        return
    if ranks.alone:
        need = estimated(
            options.strategy,
            trained.model,
            pool.unlabeled,
            labeled,
            options.n,
            options.seed,
            query,
            always=options.dry_run,
        )
        if options.dry_run:
            _tell_of_a_query(options, pool, trained, need)
            announce(need, query)
            return
        announce(need, query)
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
            name,
            options.document_root,
        )
        logger.info("writing %s", options.out)
        files.write(options.out)
        _tell(options.out, pool, files)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _say_nothing(line: str) -> None:
    """Of several processes the first speaks."""


def _warn_of_unread(options: SelectOptions, query: QueryOptions) -> None:
    if ignored := unread(options.strategy, query):
        logger.warning("strategy %s does not read %s", options.strategy, ", ".join(ignored))


@contextmanager
def _processes(options: SelectOptions) -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Ranks(None)
        return
    if options.dry_run or options.inspect:
        raise ValueError("--dry-run and --inspect are for one process")
    if options.query.mask == "middle":
        raise ValueError("mask middle is for one process")
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
    file = cast(Path, options.csv)
    return find_in_table(file, options.label_column, aside)


def _label_names(classes: Sequence[str], query: QueryOptions) -> list[str]:
    """Names of labels, of which a sample may have several."""
    if query.likelihood != "bernoulli":
        return list(classes)
    return sorted({name for each in classes for name in each.split(label_studio.BETWEEN)})


def _query(options: SelectOptions, trained: Trained, progress: bool, ranks: Ranks) -> QueryOptions:
    query = replace(options.query, progress=progress, group=ranks.group)
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
        lamb=1.0 if isinstance(query.lamb, str) else query.lamb,
    )
    print(report)


def _tell_of_a_query(options: SelectOptions, pool: OwnPool, trained: Trained, need: Any) -> None:
    print(f"{options.n:,} picks by {options.strategy} with {trained.name}")
    print(_counts(pool))
    for name, some in sorted_notes(pool.notes).items():
        if some:
            print(f"{name:<13} {len(some):,}")
    if need is None:
        print(f"{options.strategy} takes one pass over the pool, and little memory beside it")
    else:
        print(need)
    print("nothing was written")


def _counts(pool: OwnPool) -> str:
    what = "images" if pool.kind == "images" else "rows"
    known = len(pool.labels) if pool.labeled is not None else 0
    if pool.look is not None:
        unread = {str(note.path) for note in pool.notes if note.what == SKIPPED}
        assert isinstance(pool.found, OwnImages)
        known = sum(1 for path in pool.found.labeled if str(path) not in unread)
    return f"{len(pool):,} unlabeled {what} and {known:,} labeled ones"


def _tell(out: Path, pool: OwnPool, files: Files) -> None:
    print(_counts(pool))
    print(f"picks         {out / PICKS_FILE}")
    tasks = f"{out / TASKS_FILE}, labelling configuration {out / LABELS_FILE}"
    server = files.places(out)
    if server is not None:
        storages = ", ".join(map(str, server.storages))
        print(
            printable(
                f"picture       {out / GRID_NAME}.png\n"
                f"label studio  {tasks};\n"
                f"              a server with LOCAL_FILES_SERVING_ENABLED=true and "
                f"LOCAL_FILES_DOCUMENT_ROOT={server.root}\n"
                f"              shows them once the project has a Local Files storage of {storages}"
            )
        )
        if files.copies:
            _tell_copies(out / COPIES, len(files.copies), server)
    else:
        print(f"label studio  {tasks}")
    _tell_notes(out, pool.notes)


def _tell_copies(folder: Path, n: int, server: label_studio.Places) -> None:
    print(f"              {n:,} of formats that no browser shows have PNG copies in {folder}")
    if Path(os.path.abspath(folder)) not in server.storages:
        print("              which lies outside the document root: it cannot show these")


def _tell_notes(out: Path, notes: Sequence[Note]) -> None:
    for name, some in sorted_notes(notes).items():
        if some:
            print(f"{name:<13} {len(some):,}, listed in {out / name}.csv")
