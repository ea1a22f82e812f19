"""Pictures of a run, drawn with matplotlib's file backend: nothing opens a window."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from fishermask_fast.loop.records import Round, replace_file

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes do it in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def learning_curve(rounds: Sequence[Round], path: str | Path, title: str) -> None:
    """Draw test accuracy over labels, one line per strategy, as a PNG.

    Args:
        rounds: Of one run, all strategies together.
        path: The PNG to write; it appears whole or not at all.
        title: Over the axes.

    Raises:
        ValueError: There are no rounds.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not rounds:
        raise ValueError("a learning curve needs at least one round; got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    strategies = list(dict.fromkeys(entry.strategy for entry in rounds))
    for number, strategy in enumerate(strategies):
        mine = [entry for entry in rounds if entry.strategy == strategy]
        axes.plot(
            [entry.n_labeled for entry in mine],
            [entry.accuracy for entry in mine],
            label=strategy,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linestyle=STYLES[number % len(STYLES)],
            linewidth=1.8,
        )
    axes.set_xticks(sorted({entry.n_labeled for entry in rounds})[:: _tick_step(rounds)])
    axes.set_xlabel("labelled images")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_title(title)
    axes.grid(visible=True, color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    picture = io.BytesIO()
    canvas.print_png(picture)
    replace_file(Path(path), picture.getvalue())


def _tick_step(rounds: Sequence[Round]) -> int:
    """Label every tick up to a dozen of them, then every second, third, ..."""
    return 1 + (len({entry.n_labeled for entry in rounds}) - 1) // 12
