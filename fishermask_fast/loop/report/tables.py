"""A run as text: one row of accuracies per round, and what each strategy came to."""

from __future__ import annotations

from collections.abc import Sequence

from fishermask_fast.loop.report.analysis import Comparison, Interval, Study
from fishermask_fast.loop.rounds import Round

WIDTH = 12


def header(strategies: Sequence[str], metric: str = "accuracy") -> str:
    """The two lines above the rows of ``row``."""
    names = "".join(f"{name:>{_width(name)}}" for name in strategies)
    return f"test {metric}\n{'round':>5}{'labels':>8}{names}"


def row(rounds: Sequence[Round], strategies: Sequence[str]) -> str:
    """One round of every strategy, in the order of the header; a dash where one has stopped."""
    found = {entry.strategy: f"{entry.accuracy:.1%}" for entry in rounds}
    cells = "".join(f"{found.get(name, '-'):>{_width(name)}}" for name in strategies)
    n_labeled = max(entry.n_labeled for entry in rounds)
    return f"{rounds[0].round:>5}{n_labeled:>8}{cells}"


def summary(rounds: Sequence[Round], metric: str = "accuracy") -> str:
    """What each strategy gained over the whole run, and what its batches cost and did.

    ``mean`` is the mean test accuracy of the rounds after the first training: the area under the
    learning curve. tr(M^-1 F) is what a batch of FisherMask or BAIT brings down, shown before and
    after the last batch; strategies that do not look at it show none.
    """
    lines = [
        f"{'strategy':<20}{'labels':>12}{metric:>18}{'gained':>9}{'mean':>8}"
        f"{'one query':>11}{'tr(M^-1 F), last batch':>25}"
    ]
    for name in dict.fromkeys(entry.strategy for entry in rounds):
        mine = [entry for entry in rounds if entry.strategy == name]
        first, last = mine[0], mine[-1]
        queried = mine[1:]
        mean = seconds = objective = "-"
        if queried:
            mean = f"{sum(entry.accuracy for entry in queried) / len(queried):.1%}"
            seconds = f"{sum(entry.seconds['query'] for entry in queried) / len(queried):.2f} s"
        if values := last.query.get("objective"):
            objective = f"{values[0]:.4g} -> {values[-1]:.4g}"
        labels = f"{first.n_labeled} -> {last.n_labeled}"
        accuracy = f"{first.accuracy:.1%} -> {last.accuracy:.1%}"
        gained = f"{100 * (last.accuracy - first.accuracy):+.1f}"
        lines.append(
            f"{name:<20}{labels:>12}{accuracy:>18}{gained:>9}{mean:>8}{seconds:>11}{objective:>25}"
        )
    return "\n".join(lines)


def comparison(study: Study, compared: Sequence[Comparison], target: float | None = None) -> str:
    """All strategies against the baseline, as a Markdown table with what its columns mean.

    Args:
        study: Runs.
        compared: What ``compare`` found with the same target.
        target: Accuracy to be reached; None where it is that which the baseline ends at.
    """
    base = study.baseline
    n = len(study.folders)
    goal = f"{study.target():.1%}, where {base} ends" if target is None else f"{target:.1%}"
    # Every strategy and seed of an experiment has the same number of labels at the same round.
    span = study.curve(base, study.n_common()).labels
    lines = [
        f"# {study.title}",
        "",
        f"Area: mean accuracy over the learning curve from {span[0]:.0f} to {span[-1]:.0f} labels, "
        f"in %. Gain: area less that of {base}, seed by seed. Labels: how many reach {goal}. "
        f"Saved: labels of {base} less these, in the seeds where both reach it. {_brackets(n)}",
        "",
        f"| strategy | area | gain over {base} | | labels | saved |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in compared:
        labels = _interval(each.labels, 1, 0) + _share(each.labels.n, each.n_seeds)
        same = each.strategy == base
        gain = (
            "" if same else _interval(each.area_gain, 100, 1, sign=True, none="no seed in common")
        )
        verdict = "" if same else each.verdict
        area = _interval(each.area, 100, 1) + _share(each.n_seeds, n)
        saved = _interval(each.labels_saved, 1, 0, sign=True) + _share(each.labels_saved.n, n)
        saved = "" if same else saved
        lines.append(f"| {each.strategy} | {area} | {gain} | {verdict} | {labels} | {saved} |")
    return "\n".join(lines) + "\n"


def _share(n: int, of: int) -> str:
    return f" ({n} of {of} seeds)" if 0 < n < of else ""


def _brackets(n_seeds: int) -> str:
    if n_seeds < 2:
        return "One seed: no intervals."
    means = f"the mean over {n_seeds} seeds"
    return f"In brackets: 95% intervals of {means} (Student's t, each on its own)."


def _interval(
    value: Interval, scale: float, digits: int, *, sign: bool = False, none: str = "never"
) -> str:
    if value.n == 0:
        return none
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"{scale * value.mean:{form}}"
    if value.n < 2:
        return text
    return f"{text} [{scale * value.low:{form}}, {scale * value.high:{form}}]"


def _width(name: str) -> int:
    return max(WIDTH, len(name) + 2)
