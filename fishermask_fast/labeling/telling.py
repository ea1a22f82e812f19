"""What ``select`` prints: how many samples, what was written, what a label tool is to be told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fishermask_fast.datasets import SKIPPED, Note, sorted_notes
from fishermask_fast.labeling import label_studio
from fishermask_fast.labeling.images import OwnImages
from fishermask_fast.labeling.output import (
    GRID_NAME,
    LABELS_FILE,
    PICKS_FILE,
    TASKS_FILE,
    Files,
)
from fishermask_fast.labeling.pools import OwnPool
from fishermask_fast.labeling.shown import COPIES
from fishermask_fast.labeling.trained import Trained
from fishermask_fast.options import SelectOptions
from fishermask_fast.strategies import Forecast


def tell_of_a_query(
    options: SelectOptions, pool: OwnPool, trained: Trained, forecast: Forecast | None
) -> None:
    print(f"{options.n:,} picks by {options.strategy} with {trained.name}")
    print(_counts(pool))
    for name, some in sorted_notes(pool.notes).items():
        if some:
            print(f"{name:<13} {len(some):,}")
    if forecast is None or forecast.need is None:
        print(f"{options.strategy} takes one pass over the pool, and little memory beside it")
    else:
        print(forecast.need)
    print("nothing was written")


def _counts(pool: OwnPool) -> str:
    what = "images" if pool.kind == "images" else "rows"
    known = len(pool.labels) if pool.labeled is not None else 0
    if pool.look is not None:
        unread = {str(note.path) for note in pool.notes if note.what == SKIPPED}
        assert isinstance(pool.found, OwnImages)
        known = sum(1 for path in pool.found.labeled if str(path) not in unread)
    return f"{len(pool):,} unlabeled {what} and {known:,} labeled ones"


def tell(out: Path, pool: OwnPool, files: Files) -> None:
    print(_counts(pool))
    print(f"picks         {out / PICKS_FILE}")
    tasks = f"{out / TASKS_FILE}, labelling configuration {out / LABELS_FILE}"
    server = files.places(out)
    if server is not None:
        storages = ", ".join(map(str, server.storages))
        print(
            f"picture       {out / GRID_NAME}.png\n"
            f"label studio  {tasks};\n"
            f"              a server with LOCAL_FILES_SERVING_ENABLED=true and "
            f"LOCAL_FILES_DOCUMENT_ROOT={server.root}\n"
            f"              shows them once the project has a Local Files storage of {storages}"
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
