"""One experiment of one seed: data x model x schedule x strategies, round after round.

Rooms: experiment (the rounds), tasks (what kind of labels, and the metric), schedule (the first
labels), train (the recipe: Adam from scratch, then settled batch statistics).
"""

from __future__ import annotations

from fishermask_fast.loop.run.experiment import Experiment

__all__ = [
    "Experiment",
]
