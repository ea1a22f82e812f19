"""A table in Markdown and a plot from the JSON of selection_table.py or of pytest-benchmark.

    python benchmarks/plot.py results.json [--output folder]

Both files take the JSON's name, in its folder unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One thing measured; only rows of the same size are compared."""

    name: str
    seconds: float
    note: str
    size: str = ""


def groups_of(record: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of each group of things that may be compared."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for found in record.get("benchmarks", []):
        name = found["name"].removeprefix("test_")
        more = dict(found["extra_info"])
        more.pop("threads", None)
        title, seconds = found["group"] or "all", found["stats"]["median"]
        if "per_sample_ms" in more:
            title, seconds = f"{title}, one sample", more.pop("per_sample_ms") / 1e3
        info = ", ".join(f"{key} {value}" for key, value in more.items())
        groups[title].append(Row(name, seconds, info))
    for found in record.get("rows", []):
        title = f"selection, {size_of(found)}"
        groups[title].append(Row(found["name"], found["seconds"], remark(found)))
    for found in record.get("large", {}).get("rows", []):
        name = f"{found['name']}, {size_of(found)}"
        row = Row(name, found["seconds"], remark(found), size_of(found))
        groups["selection from a larger pool"].append(row)
    return groups


def size_of(found: dict[str, Any]) -> str:
    return f"N = {found['n']:,}, K = {found['n_select']:,}"


def remark(found: dict[str, Any]) -> str:
    parts = [found["note"]] if "note" in found else [f"median of {len(found['runs'])}"]
    if "gflops" in found:
        parts.append(f"{found['gflops']:.0f} GFLOP/s")
    if "passes" in found:
        parts.append(f"{found['passes']} passes, {found['setups']} set-ups")
    if found.get("picks_equal") is False:
        parts.append("other picks")
    return ", ".join(parts)


def number(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 1000 else f"{seconds:.4g}"


def ratio(row: Row, rows: list[Row]) -> str:
    """How much faster a row is than the slowest of its size, if there is another."""
    peers = [other.seconds for other in rows if other.size == row.size]
    return f"{max(peers) / row.seconds:.1f}x" if len(peers) > 1 else ""


def markdown(record: dict[str, Any], groups: dict[str, list[Row]]) -> str:
    lines = []
    if "machine_info" in record:
        facts = record["machine_info"]
        lines += [
            f"{record['datetime'][:10]}: {facts['cpu'].get('brand_raw', facts['machine'])}, "
            f"{facts['threads']} threads, {facts['instruction_set']}, torch {facts['torch']}.",
            "",
        ]
    if "machine" in record:
        facts = record["machine"]
        lines += [
            f"{record['date']}: {facts['cpu']}, {facts['threads']} threads, "
            f"{facts['instruction_set']}, torch {facts['torch']}; a matrix product reaches "
            f"{facts['matmul_float32']:.0f} GFLOP/s in float32 and "
            f"{facts['matmul_float64']:.0f} in float64. Gradients: {record['gradients']}.",
            "",
        ]
    for title, rows in groups.items():
        lines += [f"### {title}", "", "| | seconds | faster | |", "|---|---:|---:|---|"]
        for row in rows:
            lines.append(
                f"| {row.name} | {number(row.seconds)} | {ratio(row, rows)} | {row.note} |"
            )
        lines.append("")
    if "large" in record:
        more = record["large"]
        lines += [
            f"Gradients of the larger pool: {more['gradients']}. Passes over them per pick after "
            f"the first 50: {more['late_passes_per_pick']:.3f}. Resident: "
            f"{more['memory']['before']:.2f} GiB before the selection, "
            f"{more['memory']['peak']:.2f} GiB at most.",
            "",
        ]
    return "\n".join(lines)


def plot(groups: dict[str, list[Row]], path: Path) -> None:
    """One bar a row on a logarithmic axis, one panel a group."""
    from matplotlib.figure import Figure

    heights = [len(rows) + 1 for rows in groups.values()]
    figure = Figure(figsize=(8, 0.35 * sum(heights) + 0.6 * len(heights)), layout="constrained")
    # One axis for all, as a logarithmic one has no zero for bars to start from.
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)[
        :, 0
    ]
    for axes, (title, rows) in zip(panels, groups.items(), strict=True):
        names = [row.name for row in rows][::-1]
        seconds = [row.seconds for row in rows][::-1]
        colors = ["tab:blue" if "ours" in name else "tab:gray" for name in names]
        bars = axes.barh(range(len(names)), seconds, color=colors, height=0.7)
        axes.bar_label(bars, [f" {value:.3g} s" for value in seconds], fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.2)
        axes.set_title(title, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, help="JSON file")
    parser.add_argument("--output", type=Path, help="folder; the JSON's unless given")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text())
    groups = groups_of(record)
    if not groups:
        parser.error(f"{arguments.record} holds no benchmarks")
    folder = arguments.output or arguments.record.parent
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{arguments.record.stem}.md"
    table.write_text(markdown(record, groups))
    picture = folder / f"{arguments.record.stem}.png"
    plot(groups, picture)
    print(table, picture)


if __name__ == "__main__":
    main()
