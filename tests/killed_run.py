"""A run that is killed again and again, until it ends by itself.

    python tests/killed_run.py FOLDER

Prints how often it was killed.
"""

from __future__ import annotations

import sys

import torch
from killing import killed_until_done

from fishermask_fast.datasets.pools import load_data
from fishermask_fast.loop.records import RunFolder
from fishermask_fast.loop.run.experiment import Experiment
from fishermask_fast.options import DataOptions, QueryOptions, Recipe, Schedule


def experiment(warm_start: bool = False) -> Experiment:
    """A small run of three strategies, two of which keep a mask from round to round."""
    return Experiment(
        load_data(DataOptions(pool_size=40, test_size=20)),
        "cnn_small",
        Schedule(("fishermask", "random", "badge"), initial=8, per_round=4, rounds=3),
        Recipe(epochs=1, min_steps=2, warm_start=warm_start),
        QueryOptions(fraction=0.03, fisher_samples=16),
    )


def go_on(run: Experiment, folder: str) -> None:
    """The rounds that are not recorded yet."""
    list(run.run(RunFolder(folder, run.config(), resume=True)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = experiment(warm_start=True)
    print(killed_until_done(lambda: go_on(run, sys.argv[1]), seconds=0.1))
