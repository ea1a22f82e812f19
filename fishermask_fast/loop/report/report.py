"""``fishermask-fast plot``: all pictures and the table of one experiment's runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fishermask_fast.files import check_no_link, replace_file
from fishermask_fast.loop.report import curves, grids, pictures, tables
from fishermask_fast.loop.report.analysis import Study, compare, read_study
from fishermask_fast.options import PlotOptions

logger = logging.getLogger(__name__)

TABLE_FILE = "comparison.md"


def plot_runs(folders: Sequence[Path], options: PlotOptions) -> None:
    """Draw what the options ask for, and print the table.

    Raises:
        ValueError: There are no runs, or not of one experiment.
    """
    import_module("matplotlib")
    study = read_study(folders, options.baseline)
    out = options.out
    if out is None:
        out = folders[0] / "pictures"
        check_no_link(out)
    out.mkdir(parents=True, exist_ok=True)
    compared = compare(study, options.target)
    table = tables.comparison(study, compared, options.target)
    replace_file(out / TABLE_FILE, table.encode())
    curves.learning_curves(study, out / "learning_curves")
    curves.learning_curves_apart(study, out / "learning_curves_apart")
    if len(compared) > 1:
        curves.gains(study, compared, out / "gains")
    pictures.label_distribution(study, out / "label_distribution")
    pictures.mask_profile(study, out / "mask_profile")
    pictures.mask_overlap(study, out / "mask_overlap")
    pictures.time_by_step(study, out / "time_by_step")
    _draw_picks(study, out, options.data_root)
    print(table)
    for path in sorted(out.glob("*.png")):
        print(f"picture  {path}")


def _draw_picks(study: Study, out: Path, root: str | None) -> None:
    seed = min(study.folders)
    try:
        data = grids.reload_data(study, seed, root)
    except ValueError as error:
        logger.warning("no pictures of picks: %s", error)
        return
    if data.kind != "images":
        return
    for name in study.strategies:
        if any(entry.seed == seed for entry in study.of(name)):
            grids.picks_by_round(study, name, data, seed, out / f"picks_{name}")
