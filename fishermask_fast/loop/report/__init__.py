"""What recorded runs come to, as a table and as pictures.

Rooms: analysis (areas, labels needed, intervals paired by seed), tables (as text), curves and
pictures (as figures), grids (the picks themselves), report (the command).
"""

from __future__ import annotations

from fishermask_fast.loop.report import tables
from fishermask_fast.loop.report.analysis import read_runs
from fishermask_fast.loop.report.curves import learning_curves
from fishermask_fast.loop.report.report import plot_runs

__all__ = [
    "learning_curves",
    "plot_runs",
    "read_runs",
    "tables",
]
