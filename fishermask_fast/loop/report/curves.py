"""Learning curves and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fishermask_fast.loop.report.analysis import Comparison, Curve, Study
from fishermask_fast.plotting import COLOURS, GREY, figure_to, look, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curves(study: Study, path: Path) -> None:
    """Mean test metric over labels, all strategies together, those that end best listed first."""
    curves = {name: study.curve(name) for name in study.strategies}
    with figure_to(path, (8.4, 4.8)) as figure:
        axes = figure.add_subplot()
        for number, (name, curve) in enumerate(curves.items()):
            axes.plot(
                curve.labels,
                curve.accuracy.mean(0),
                label=name,
                markersize=5.5,
                linewidth=1.7,
                **look(number),  # type: ignore[arg-type]
            )
            if len(curves) <= 4:
                _band(axes, curve, COLOURS[number % len(COLOURS)])
        _label_axes(axes, list(curves.values()), f"test {study.metric}")
        axes.set_title(f"{study.title}: mean test {study.metric}")
        handles, names = axes.get_legend_handles_labels()
        order = sorted(range(len(names)), key=lambda i: -curves[names[i]].accuracy[:, -1].mean())
        axes.legend(
            [handles[i] for i in order],
            [names[i] for i in order],
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            title="best at the end first",
            alignment="left",
        )


def learning_curves_apart(study: Study, path: Path) -> None:
    """A panel a strategy: its mean with a band over seeds, against the baseline's."""
    names = [name for name in study.strategies if name != study.baseline] or study.strategies
    base = study.curve(study.baseline)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    with figure_to(path, (2.8 * columns + 0.6, 2.5 * rows + 0.7)) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for number, axes in enumerate(panels.flat):
            if number >= len(names):
                axes.set_visible(False)
                continue
            name = names[number]
            curve = study.curve(name)
            colour = COLOURS[study.strategies.index(name) % len(COLOURS)]
            _band(axes, base, GREY)
            axes.plot(base.labels, base.accuracy.mean(0), color="0.35", linestyle="--")
            if name != study.baseline:
                _band(axes, curve, colour)
            axes.plot(curve.labels, curve.accuracy.mean(0), color=colour, marker="o", markersize=4)
            _label_axes(axes, [base, curve])
            axes.set_title(name, fontsize=10)
            axes.tick_params(labelbottom=number + columns >= len(names))
        band = _band_name(len(study.folders))
        figure.suptitle(f"{study.title}; dashed: {study.baseline}{band}", fontsize=10)
        figure.supxlabel("labeled samples", fontsize=10)
        figure.supylabel(f"test {study.metric}", fontsize=10)


def gains(study: Study, compared: Sequence[Comparison], path: Path) -> None:
    """Each strategy's area less the baseline's, with intervals, the largest at the top."""
    others = [each for each in compared if each.strategy != study.baseline]
    others.sort(key=lambda each: each.area_gain.mean)
    with figure_to(path, (6.8, 1.3 + 0.38 * len(others))) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color="0.4", linewidth=1)
        for row, each in enumerate(others):
            gain = each.area_gain
            clear = each.verdict in ("wins", "loses")
            if gain.n > 1:
                axes.plot([100 * gain.low, 100 * gain.high], [row, row], color="#0072B2")
            axes.plot(
                [100 * gain.mean],
                [row],
                marker="o",
                color="#0072B2",
                markerfacecolor="#0072B2" if clear else "white",
            )
        axes.set_yticks(range(len(others)), [each.strategy for each in others])
        axes.set_ylim(-0.6, len(others) - 0.4)
        what = "mean" if len(study.folders) < 2 else "mean and 95% interval, paired by seed"
        axes.set_xlabel(
            f"area under the curve less that of {study.baseline}, percentage points\n{what}; "
            "filled: the interval leaves zero out"
        )
        axes.set_title(study.title)
        plain(axes)


def _label_axes(axes: Axes, curves: Sequence[Curve], metric: str | None = None) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    ticks = sorted({float(n) for curve in curves for n in curve.labels})
    if len(ticks) <= 12:
        axes.set_xticks(ticks)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if metric is not None:
        axes.set_xlabel("labeled samples")
        axes.set_ylabel(metric)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    plain(axes)


def _band(axes: Axes, curve: Curve, colour: str) -> None:
    if len(curve.seeds) < 2:
        return
    axes.fill_between(
        curve.labels,
        curve.accuracy.min(0),
        curve.accuracy.max(0),
        color=colour,
        alpha=0.18,
        linewidth=0,
    )


def _band_name(n_seeds: int) -> str:
    return "" if n_seeds < 2 else "; lines are means, bands the least and most of all seeds"
