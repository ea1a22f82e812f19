"""What was picked, by which parameters, and in what time: one picture for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fishermask_fast.loop.report.analysis import Study
from fishermask_fast.loop.rounds import Round
from fishermask_fast.plotting import COLOURS, figure_to, look, plain

MOST_LAYERS = 40
# Kept apart by lightness as well as by hue.
STEPS = {
    "query/mask": ("mask", "#332288"),
    "query/gradients": ("gradients", "#0072B2"),
    "query/fisher": ("Fisher matrices", "#56B4E9"),
    "query/selection": ("selection", "#009E73"),
    "query": ("rest of the query", "#F0E442"),
    "train": ("training", "#BBBBBB"),
    "evaluate": ("test", "#777777"),
}


def label_distribution(study: Study, path: Path) -> None:
    """Share of each class among a round's picks, mean over seeds: a panel a strategy."""
    from matplotlib.ticker import PercentFormatter

    names, classes = study.strategies, study.classes
    columns = min(5, len(names))
    rows = math.ceil(len(names) / columns)
    n_rounds = max(entry.round for entry in study.rounds) + 1
    width = max(1.5, 0.42 * n_rounds) * columns + 2.2
    height = max(1.2, 0.24 * len(classes)) * rows + 0.45 * rows + 1.2
    with figure_to(path, (width, height)) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        tables = [_shares(study.of(name), len(classes), n_rounds) for name in names]
        most = float(np.nanmax(tables))
        image = None
        for number, axes in enumerate(panels.flat):
            if number >= len(names):
                axes.set_visible(False)
                continue
            shares = tables[number]
            image = axes.imshow(shares, vmin=0, vmax=most, cmap="cividis", aspect="auto")
            for (row, column), share in np.ndenumerate(shares):
                if not math.isnan(share):
                    colour = "black" if share > 0.55 * most else "white"
                    text = f"{100 * share:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=colour, size=7)
            axes.set_title(names[number], fontsize=9)
            axes.set_xticks(range(n_rounds))
            axes.set_yticks(range(len(classes)), classes, fontsize=8)
            axes.tick_params(length=0, labelbottom=number + columns >= len(names))
        if image is not None:
            figure.colorbar(
                image,
                ax=panels,
                label="share of the round's picks (numbers: %)",
                format=PercentFormatter(xmax=1),
                fraction=0.03,
            )
        pool = study.config.get("pool_counts")
        shown = "" if pool is None else "; pool: " + "/".join(map(str, pool))
        figure.suptitle(f"{study.title}{shown}", fontsize=10)
        figure.supxlabel("round (0: the initial set)", fontsize=10)


def _shares(rounds: list[Round], n_classes: int, n_rounds: int) -> np.ndarray:
    """(n_classes, n_rounds) mean shares, NaN for rounds that are not there."""
    found = np.full((n_classes, n_rounds), np.nan)
    for number in range(n_rounds):
        counts = [entry.label_counts for entry in rounds if entry.round == number]
        if counts:
            # Of several labels a round's picks may have none.
            shares = np.array(counts) / np.maximum(np.array(counts).sum(1, keepdims=True), 1)
            found[:, number] = shares.mean(0)
    return found


def mask_profile(study: Study, path: Path) -> bool:
    """How many entries of each layer are masked, mean over rounds and seeds, on a log scale.

    Returns:
        Whether any strategy has a mask; nothing is written otherwise.
    """
    profiles = {name: _profile(study.of(name)) for name in study.strategies}
    profiles = {name: profile for name, profile in profiles.items() if profile}
    if not profiles:
        return False
    layers = list(dict.fromkeys(layer for profile in profiles.values() for layer in profile))
    with figure_to(path, (7.6, 1.6 + 0.2 * len(layers) + 0.2 * len(profiles))) as figure:
        axes = figure.add_subplot()
        for number, (name, profile) in enumerate(profiles.items()):
            shape = look(number)
            offset = 0.16 * (number - (len(profiles) - 1) / 2)
            axes.plot(
                [profile.get(layer, (0.0, 0.0))[0] or math.nan for layer in layers],
                [row + offset for row in range(len(layers))],
                color=shape["color"],
                marker=shape["marker"],
                linestyle="none",
                markersize=5,
                label=name,
            )
        merged = {layer: size for each in profiles.values() for layer, (_, size) in each.items()}
        axes.plot(
            [merged[layer] for layer in layers],
            range(len(layers)),
            color="0.7",
            marker="|",
            linestyle="none",
            markersize=9,
            label="size of the layer",
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlabel("masked entries, mean over rounds and seeds (none where there is no mark)")
        axes.set_title(study.title, fontsize=10)
        plain(axes)
        figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    return True


def _profile(rounds: list[Round]) -> dict[str, tuple[float, float]]:
    """Mean masked entries and size of each layer, in the model's order."""
    masks = [entry.query["mask"] for entry in rounds if entry.query.get("mask")]
    if not masks:
        return {}
    depth = max(len(name.split(".")) for name in masks[0])
    while depth > 1 and len({_layer(name, depth) for name in masks[0]}) > MOST_LAYERS:
        depth -= 1
    found: dict[str, tuple[float, float]] = {}
    for mask in masks:
        for name, (masked, size) in mask.items():
            layer = _layer(name, depth)
            before = found.get(layer, (0.0, 0.0))
            found[layer] = (before[0] + masked / len(masks), before[1] + size / len(masks))
    return found


def _layer(name: str, depth: int) -> str:
    parts = name.split(".")[:-1] or [name]
    return ".".join(parts[:depth])


def mask_overlap(study: Study, path: Path) -> bool:
    """Share of the mask that it has in common with that of the round before, over rounds.

    Returns:
        Whether any is recorded; nothing is written otherwise.
    """
    overlaps: dict[str, dict[int, list[float]]] = {}
    for entry in study.rounds:
        if "mask_overlap" in entry.query:
            by_round = overlaps.setdefault(entry.strategy, {})
            by_round.setdefault(entry.round, []).append(entry.query["mask_overlap"])
    if not overlaps:
        return False
    with figure_to(path, (6.4, 4.0)) as figure:
        axes = figure.add_subplot()
        for number, (name, by_round) in enumerate(overlaps.items()):
            rounds = sorted(by_round)
            values = [100 * _mean(by_round[each]) for each in rounds]
            axes.plot(rounds, values, label=name, markersize=6, **look(number))  # type: ignore[arg-type]
            low = [100 * min(by_round[each]) for each in rounds]
            high = [100 * max(by_round[each]) for each in rounds]
            if any(len(each) > 1 for each in by_round.values()):
                colour = COLOURS[number % len(COLOURS)]
                axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(sorted({each for by_round in overlaps.values() for each in by_round}))
        axes.set_ylim(0, 102)
        axes.set_xlabel("round")
        axes.set_ylabel("% of the mask kept from the round before")
        axes.set_title(study.title, fontsize=10)
        plain(axes)
        figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    return True


def time_by_step(study: Study, path: Path) -> None:
    """Seconds of a round by step, mean over the rounds with a query and over seeds."""
    names = study.strategies
    with figure_to(path, (7.6, 1.6 + 0.36 * len(names))) as figure:
        axes = figure.add_subplot()
        totals = [0.0] * len(names)
        seconds = [_seconds(study.of(name)) for name in names]
        for step, (label, colour) in STEPS.items():
            values = [each.get(step, 0.0) for each in seconds]
            if any(values):
                axes.barh(
                    range(len(names)),
                    values,
                    left=totals,
                    color=colour,
                    edgecolor="white",
                    linewidth=0.6,
                    label=label,
                )
            totals = [total + value for total, value in zip(totals, values, strict=True)]
        for row, total in enumerate(totals):
            axes.text(total, row, f" {total:.3g} s", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(totals))
        axes.set_xlabel("seconds of a round, mean over rounds and seeds")
        axes.set_title(study.title, fontsize=10)
        plain(axes)
        figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=9)


def _seconds(rounds: list[Round]) -> dict[str, float]:
    queried = [entry.seconds for entry in rounds if "query" in entry.seconds]
    found = {step: _mean([each.get(step, 0.0) for each in queried]) for step in STEPS if queried}
    if found:
        inside = sum(value for step, value in found.items() if step.startswith("query/"))
        found["query"] = max(found["query"] - inside, 0.0)
    return found


def _mean(values: Sequence[float]) -> float:
    """Mean, or NaN of nothing."""
    return float(np.mean(values)) if values else math.nan
