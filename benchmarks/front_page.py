"""Draws the documentation's first picture: what was picked, beside what chance picked.

    python benchmarks/front_page.py --data-root ROOT

The picks are those recorded in benchmarks/results/experiments/fashion_mnist_imbalanced; nothing is
trained or picked anew. Of its nine rounds (three seeds) the one shown, seed 2, first, is nearest to
the mean of all nine: FisherMask took 18 of 50 from the common class, 17.6 on average. The labels
that the record counts must be those of the images that are drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure

from fishermask_fast.datasets import PoolAndTest, load_data
from fishermask_fast.options import DataOptions
from fishermask_fast.plotting import pixels_of

ROOT = Path(__file__).parents[1]
RUN = ROOT / "benchmarks" / "results" / "experiments" / "fashion_mnist_imbalanced" / "seed2"
PICTURE = ROOT / "docs" / "picked.png"
ROUND, COLUMNS, ROWS = 1, 10, 5
COMMON = 1  # the class of 5,000 images, of which any labeler has soon seen enough


def recorded(strategy: str) -> dict[str, list[int]]:
    for line in (RUN / "rounds.jsonl").read_text().splitlines():
        record: dict[str, list[int]] = json.loads(line)
        if (record["strategy"], record["round"]) == (strategy, ROUND):
            return record
    raise ValueError(f"{RUN} has no round {ROUND} of {strategy}")


def draw(figure: Figure, data: PoolAndTest, strategy: str, title: str) -> None:
    record = recorded(strategy)
    picks = torch.tensor(record["picks"])
    targets = data.pool.targets[picks]
    counts = torch.bincount(targets, minlength=len(data.classes)).tolist()
    if counts != record["label_counts"]:
        raise ValueError(f"{strategy} was recorded with {record['label_counts']}; got {counts}")
    rare = len(picks) - counts[COMMON]
    figure.suptitle(f"{title}: {rare} of {len(picks)} are of the rare classes", fontsize=11)
    images = data.pool.stored(picks.tolist())
    for number, axes in enumerate(figure.subplots(ROWS, COLUMNS).flat):
        axes.imshow(**pixels_of(images[number]))
        axes.set_xticks([])
        axes.set_yticks([])
        is_rare = targets[number] != COMMON
        for side in axes.spines.values():
            side.set_color("#d55e00" if is_rare else "#bbbbbb")
            side.set_linewidth(2.5 if is_rare else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", default="data")
    root = parser.parse_args().data_root
    config = json.loads((RUN / "config.json").read_text())["config"]["data"]
    options = DataOptions(
        name=config["name"],
        root=root,
        class_counts=tuple(config["class_counts"]),
        test_size=config["test_size"],
        seed=config["seed"],
    )
    data = load_data(options)
    figure = Figure(figsize=(10.4, 3.1), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, wspace=0.04)
    draw(left, data, "fishermask", "Picked by FisherMask")
    draw(right, data, "random", "Picked by chance")
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
