"""A run that is killed again and again, each time a little later, until it ends by itself.

    python tests/killed_run.py FOLDER

Prints how often it was killed. Processes are forked, so that only the first pays for the imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import torch

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


def main(folder: str) -> None:
    """Run, and be killed, until the run is whole."""
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    run = experiment(warm_start=True)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            timer = threading.Timer(0.1 * (kills + 1), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
            list(run.run(RunFolder(folder, run.config(), resume=True)))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            print(kills)
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"the run failed with status {status}")
        kills += 1


if __name__ == "__main__":
    main(sys.argv[1])
