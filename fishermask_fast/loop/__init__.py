"""A thin active-learning loop: train, query, label, train again, evaluate.

It shows what a batch of FisherMask buys over others. Rooms in reading order: run/ (one experiment:
first labels, training, a round at a time), rounds and round_checks (one round as a line, and how it
is read back), records (the folder of a run: written, locked, gone on with), report/ (what runs of
several seeds come to: A = sum_i (n_i - n_{i-1}) (a_i + a_{i-1}) / 2 / (n_R - n_0)), runner (the
command). May import: strategies, models, datasets, installation, masks, options, plotting,
progress, files; not labeling.
"""

from __future__ import annotations

from fishermask_fast.loop.report import plot_runs
from fishermask_fast.loop.runner import run_experiments

__all__ = [
    "plot_runs",
    "run_experiments",
]
