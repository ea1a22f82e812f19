"""Every table and picture of the frozen track, from its records.

    python benchmarks/experiments/frozen/report.py OUT

writes into OUT: ``report.md``, a learning curve a setting and ``penalties``. Of each setting, with
A_s the area under balanced accuracy of seed s and D_s the recipe's A_s less a baseline's:

    p         Wilcoxon's signed-rank test of D_s, two-sided, Holm's correction over the baselines
    interval  mean D_s +- t s / sqrt(S), of level 1 - 0.05 / baselines, so that all hold together
    labels    the least at which the mean curve reaches the accuracy at which random's ends

The penalties are BADGE's (Ash et al. 2020, section 5): at each number of labels of each setting,
i takes 1 / rounds from j where a paired t-test of level 0.05 finds i better; a column's mean is
what a strategy was beaten by, the lower the better.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from fishermask_fast.files import replace_file
from fishermask_fast.loop.report import learning_curves
from fishermask_fast.loop.report.analysis import Curve, Study, read_study
from fishermask_fast.plotting import figure_to

LEVEL = 0.05


@dataclass(frozen=True)
class Against:
    """The recipe against one baseline, in one setting.

    Attributes:
        baseline: Its name.
        mean: Of D over the seeds.
        half: Half the width of its interval.
        p: Holm's.
        n_better: Seeds in which the recipe's area is larger.
    """

    baseline: str
    mean: float
    half: float
    p: float
    n_better: int

    @property
    def verdict(self) -> str:
        """By p alone."""
        if self.p >= LEVEL:
            return "tie"
        return "wins" if self.mean > 0 else "loses"


def holm(values: list[float]) -> list[float]:
    """p-values after Holm's step-down correction, in the order given."""
    order = np.argsort(values)
    found, most = [0.0] * len(values), 0.0
    for step, index in enumerate(order):
        most = max(most, (len(values) - step) * values[index])
        found[index] = min(most, 1.0)
    return found


def areas(study: Study, name: str) -> dict[int, float]:
    """A of each seed."""
    return study.curve(name, study.n_common()).areas()


def compare(study: Study, recipe: str) -> list[Against]:
    """The recipe against every other strategy of a setting."""
    ours = areas(study, recipe)
    others = [name for name in study.strategies if name != recipe]
    gains = [[ours[seed] - a for seed, a in areas(study, name).items()] for name in others]
    p = holm([float(stats.wilcoxon(each).pvalue) if any(each) else 1.0 for each in gains])
    quantile = stats.t.ppf(1 - LEVEL / len(others) / 2, len(ours) - 1)
    return [
        Against(
            name,
            float(np.mean(each)),
            float(quantile * np.std(each, ddof=1) / np.sqrt(len(each))),
            corrected,
            sum(gain > 0 for gain in each),
        )
        for name, each, corrected in zip(others, gains, p, strict=True)
    ]


def penalties(studies: list[Study], names: list[str]) -> np.ndarray:
    """What each row's strategy takes from each column's, summed over settings."""
    found = np.zeros((len(names), len(names)))
    for study in studies:
        curves = [study.curve(name, study.n_common()).accuracy[:, 1:] for name in names]
        n_seeds, n_rounds = curves[0].shape
        limit = stats.t.ppf(1 - LEVEL / 2, n_seeds - 1)
        for i, ours in enumerate(curves):
            for j, theirs in enumerate(curves):
                gain = ours - theirs
                error = gain.std(0, ddof=1) / np.sqrt(n_seeds)
                found[i, j] += (gain.mean(0) > limit * error).sum() / n_rounds
    return found


def labels_to(study: Study, name: str) -> float:
    """L of the mean curve."""
    curve = study.curve(name, study.n_common())
    mean = Curve(curve.labels, curve.accuracy.mean(0, keepdims=True), (0,))
    # Random's own mean, summed in another order, must reach it.
    return mean.labels_to(study.target() - 1e-9).get(0, float("nan"))


def table(study: Study, recipe: str) -> str:
    """One setting as Markdown, the largest area first."""
    against = {each.baseline: each for each in compare(study, recipe)}
    goal = 100 * study.target()
    lines = [
        f"### {study.config['name']}: {len(study.folders)} seeds, pool {study.config['n_pool']}",
        "",
        f"| strategy | area | at the end | {recipe} less it | seeds better | Holm's p | "
        f"| labels to {goal:.1f} | a query |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    means = {name: float(np.mean(list(areas(study, name).values()))) for name in study.strategies}
    for name in sorted(means, key=lambda each: -means[each]):
        end = 100 * study.curve(name).accuracy[:, -1].mean()
        cells = ["", "", "", ""]
        if each := against.get(name):
            low, high = 100 * (each.mean - each.half), 100 * (each.mean + each.half)
            cells = [
                f"{100 * each.mean:+.2f} [{low:+.2f}, {high:+.2f}]",
                f"{each.n_better} of {len(study.folders)}",
                f"{each.p:.2g}",
                each.verdict,
            ]
        labels = labels_to(study, name)
        seconds = [e.seconds["query"] for e in study.of(name) if "query" in e.seconds]
        first = f"**{name}**" if name == recipe else name
        reached = "not reached" if np.isnan(labels) else f"{labels:.0f}"
        lines.append(
            f"| {first} | {100 * means[name]:.2f} | {end:.1f} | {' | '.join(cells)} | {reached} | "
            f"{np.mean(seconds):.2f} s |"
        )
    return "\n".join(lines) + "\n"


def summary(studies: list[Study], recipe: str) -> str:
    """The recipe's verdicts, a row a setting."""
    names = [name for name in studies[0].strategies if name != recipe]
    lines = [
        f"| {recipe} against | {' | '.join(names)} |",
        f"| --- | {' | '.join('---' for _ in names)} |",
    ]
    for study in studies:
        against = {each.baseline: each for each in compare(study, recipe)}
        cells = [f"{against[n].verdict} ({100 * against[n].mean:+.1f})" for n in names]
        lines.append(f"| {study.config['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def penalty_picture(found: np.ndarray, names: list[str], n_settings: int, path: Path) -> None:
    """The matrix, and the columns' means below it."""
    shown = np.vstack([found, found.mean(0)])
    with figure_to(path, (1.6 + 0.62 * len(names), 1.5 + 0.5 * len(names))) as figure:
        axes = figure.add_subplot()
        axes.imshow(shown, cmap="cividis", vmin=0, vmax=max(found.max(), 1e-9), aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            dark = value < 0.55 * found.max()
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
        axes.axhline(len(names) - 0.5, color="white", linewidth=3)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(names) + 1), [*names, "mean of the column"], fontsize=8)
        axes.tick_params(length=0)
        axes.set_title(
            f"how often the row beats the column, of {n_settings} setting{'s' * (n_settings > 1)}\n"
            "(a column's mean: the lower the better)",
            fontsize=9,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of a run")
    parser.add_argument("--recipe", default="recipe")
    arguments = parser.parse_args()
    folders = sorted(path for path in arguments.out.iterdir() if path.is_dir())
    studies = [read_study([folder], "random") for folder in folders]
    names = studies[0].strategies
    parts = [summary(studies, arguments.recipe), "![Who beats whom](penalties.png)\n"]
    for folder, study in zip(folders, studies, strict=True):
        parts.append(table(study, arguments.recipe))
        parts.append(f"![Learning curves](curves-{folder.name}.png)\n")
        learning_curves(study, arguments.out / f"curves-{folder.name}")
    found = penalties(studies, names)
    penalty_picture(found, names, len(studies), arguments.out / "penalties")
    text = "\n".join(parts)
    replace_file(arguments.out / "report.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
