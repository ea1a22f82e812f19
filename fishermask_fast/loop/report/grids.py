"""Picks as images: a grid with a row a round, or one grid of a batch."""

from __future__ import annotations

from pathlib import Path

from fishermask_fast.datasets import PoolAndTest, load_data
from fishermask_fast.loop.report.analysis import Study
from fishermask_fast.options import DataOptions
from fishermask_fast.plotting import figure_to, pixels_of

PER_ROW = 12


def reload_data(study: Study, seed: int, root: str | None) -> PoolAndTest:
    """The data that a study's runs of one seed were made of.

    Raises:
        ValueError: They are not there any more, or are other data than the run had.
    """
    options = dict(study.config["data"], seed=seed, download=False)
    if root is not None:
        options["root"] = root
    if options.get("class_counts") is not None:
        options["class_counts"] = tuple(options["class_counts"])
    data = load_data(DataOptions(**options))
    if len(data.pool) != study.config["n_pool"] or list(data.classes) != study.classes:
        raise ValueError(
            f"{data.name} has changed: {len(data.pool)} samples of {len(data.classes)} classes; "
            f"the run had {study.config['n_pool']} of {len(study.classes)}"
        )
    return data


def picks_by_round(study: Study, strategy: str, data: PoolAndTest, seed: int, path: Path) -> None:
    """The first picks of each round of one strategy and seed, from left to right as picked."""
    rounds = [entry for entry in study.of(strategy) if entry.seed == seed]
    columns = min(PER_ROW, max(len(entry.picks) for entry in rounds))
    with figure_to(path, (0.95 * columns + 1.0, 1.18 * len(rounds) + 0.6)) as figure:
        panels = figure.subplots(len(rounds), columns, squeeze=False)
        for row, entry in zip(panels, rounds, strict=True):
            picks = entry.picks[:columns]
            images = data.pool.stored(picks)
            for axes, image, pick in zip(row, images, picks, strict=False):
                axes.imshow(**pixels_of(image))
                axes.set_title(study.classes[int(data.pool.targets[pick])], fontsize=7, pad=2)
            for axes in row:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_frame_on(False)
            row[0].set_ylabel(f"round {entry.round}" if entry.round else "initial", fontsize=8)
        figure.suptitle(
            f"{strategy}, seed {seed}: the first {columns} of each round's picks", fontsize=10
        )
