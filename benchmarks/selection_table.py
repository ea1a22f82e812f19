"""The selection against its baselines in one run: a table on the screen and a dated JSON file.

    python benchmarks/selection_table.py --gradients gradients.pt --data-root data
    python benchmarks/plot.py benchmarks/results/selection-2026-01-31.json

Times are medians in seconds of a whole selection with F given; `published` is its set-up and three
picks, extrapolated. `--large` adds N = 20,000 and K = 1,000, with quarters and halves of both.
GFLOP/s are counted multiplications and additions, the fewest that each form of the factors needs,
over the time of the whole selection.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baselines import Task, Timed, extrapolated, published, torch_updates
from peak import peak_gib
from real_gradients import cached
from records import write_record
from torch import Tensor

from fishermask_fast import GradientFactors, Selection, build_info, select_batch

PUBLISHED_PICKS = 3
_LONG = 10.0  # seconds after which `torch` is repeated less


def repeated(function: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each call, after one that is not counted, and the last result."""
    result = function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def update_flops(factors: GradientFactors) -> float:
    """Of one pick for one candidate: [P R] = V [U W], A, B, and tr(A^-1 B)."""
    r = factors.n_rows
    products = 2 * r * factors.middle.shape[2] * 2 * r
    if factors.coupling is not None and factors.hidden is not None:
        c, d = factors.coupling.shape[2], factors.hidden.shape[1]
        products += 2 * c * d * 2 * r + 2 * r * c * 2 * r
    symmetric = r * (r + 1) / 2
    return products + symmetric * 2 * r * 3 + 2 * r**3 / 3 + symmetric * 2


def setup_flops(factors: GradientFactors) -> float:
    """Of V_x Q V_x^T for one candidate and two symmetric Q, each entry of Q once."""
    r, m = factors.n_rows, factors.middle.shape[2]
    one = r * m * (m + 1) + r * (r + 1) * m
    if factors.coupling is not None and factors.hidden is not None:
        c, d = factors.coupling.shape[2], factors.hidden.shape[1]
        one += 2 * d * c * m + 2 * r * c * m + c * (c + 1) / 2 * d * (d + 1)
        one += 2 * r * c * c + r * (r + 1) * c
    return 2 * one


def selection_flops(factors: GradientFactors, found: Selection) -> float:
    n = len(factors)
    return n * (len(found) * update_flops(factors) + found.setups * setup_flops(factors))


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a square product."""
    x = torch.randn(size, size, dtype=dtype)
    seconds, _ = repeated(lambda: x @ x, 5)
    return 2e-9 * size**3 / min(seconds)


def n_classes(factors: GradientFactors) -> int:
    return factors.n_rows if factors.coupling is None else factors.coupling.shape[2]


def row(name: str, seconds: list[float], n: int, n_select: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "n": n,
        "n_select": n_select,
        "seconds": statistics.median(seconds),
        "runs": seconds,
        **more,
    }


def ours(
    name: str, pool: GradientFactors, fisher: Tensor, n_select: int, repeats: int
) -> tuple[dict[str, Any], list[int]]:
    seconds, found = repeated(lambda: select_batch(pool, n_select, fisher), repeats)
    gigaflops = 1e-9 * selection_flops(pool, found) / statistics.median(seconds)
    more = {"setups": found.setups, "passes": found.passes, "gflops": gigaflops}
    return row(name, seconds, len(pool), n_select, **more), found.indices.tolist()


def published_row(task: Task, n_classes: int) -> tuple[dict[str, Any], list[int]]:
    """With a row for each class, as that code has it; a row of zeros changes no product."""
    missing = max(n_classes - task.gradients.shape[1], 0)
    rows = torch.nn.functional.pad(task.gradients, (0, 0, 0, missing))
    timed = published(dataclasses.replace(task, gradients=rows), PUBLISHED_PICKS)
    seconds = extrapolated(timed, task.n_select)
    note = f"extrapolated from {PUBLISHED_PICKS} picks"
    n = len(task.gradients)
    return row("published", [seconds], n, task.n_select, note=note), timed.picks


def torch_row(task: Task, repeats: int, compiled: bool) -> tuple[dict[str, Any], list[int]]:
    first = torch_updates(task, compiled=compiled)
    runs: list[Timed] = [torch_updates(task, compiled=compiled)]
    while len(runs) < (repeats if runs[0].total < _LONG else min(repeats, 3)):
        runs.append(torch_updates(task, compiled=compiled))
    assert first.picks == runs[-1].picks
    seconds = [timed.total for timed in runs]
    setup = statistics.median(timed.setup for timed in runs)
    name = "compiled" if compiled else "torch"
    return row(name, seconds, len(task.gradients), task.n_select, setup=setup), first.picks


def compare(
    pool: GradientFactors, n_select: int, repeats: int, compiled: bool
) -> list[dict[str, Any]]:
    """All ways on one pool; the picks of each must be those of float64 throughout."""
    fisher = pool.fisher()
    dense = GradientFactors(pool.dense())
    exact = select_batch(pool, n_select, fisher, precision="float64").indices.tolist()
    task = Task(dense.middle, n_select, fisher)
    measured = [
        ours("ours, structured", pool, fisher, n_select, repeats),
        ours("ours, dense", dense, fisher, n_select, repeats),
        torch_row(task, repeats, compiled=False),
        *([torch_row(task, repeats, compiled=True)] if compiled else []),
        published_row(task, n_classes(pool)),
    ]
    rows = []
    for found, picks in measured:
        found["picks_equal"] = picks == exact[: len(picks)]
        rows.append(found)
    return rows


def growth(pool: GradientFactors, n_select: int, repeats: int) -> list[dict[str, Any]]:
    """Structured selection of quarters and halves in N and in K."""
    rows = []
    n = len(pool)
    sizes = [(n // 4, n_select), (n // 2, n_select), (n, n_select // 4), (n, n_select // 2)]
    for part, count in [*sizes, (n, n_select)]:
        fisher = pool[:part].fisher()
        rows.append(ours("ours, structured", pool[:part], fisher, count, repeats)[0])
    return rows


def peak_memory(path: Path, n: int, n_select: int) -> dict[str, float]:
    """GiB resident at most, before and after a selection, in a process of its own."""
    command = [sys.executable, __file__, "--peak", str(n), str(n_select), "--gradients", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def print_peak(path: Path, n: int, n_select: int) -> None:
    pool = cached(n, path, "").factors
    before = peak_gib()
    select_batch(pool, n_select)
    print(json.dumps({"before": before, "peak": peak_gib()}))


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": build_info().instruction_set,
        "torch": torch.__version__,
        "matmul_float32": matmul_rate(torch.float32),
        "matmul_float64": matmul_rate(torch.float64),
    }


def large(path: Path, data_root: str, n: int, n_select: int, repeats: int) -> dict[str, Any]:
    pool = cached(n, path, data_root)
    rows = growth(pool.factors, n_select, repeats)
    fisher = pool.factors.fisher()
    # Without labeled samples the first picks do not depend on how many are to come.
    first = select_batch(pool.factors, 50, fisher).passes
    late = (rows[-1]["passes"] - first) / max(n_select - 50, 1)
    slow, _ = published_row(Task(pool.factors.dense(), n_select, fisher), n_classes(pool.factors))
    memory = peak_memory(path, n, n_select)
    rows.append(slow)
    return {"gradients": pool.name, "rows": rows, "late_passes_per_pick": late, "memory": memory}


def print_rows(rows: list[dict[str, Any]]) -> None:
    slowest = max(found["seconds"] for found in rows)
    for found in rows:
        gigaflops = f"{found['gflops']:8.1f}" if "gflops" in found else " " * 8
        equal = {True: "yes", False: "NO", None: ""}[found.get("picks_equal")]
        print(
            f"{found['name']:18} {found['n']:7} {found['n_select']:6} {found['seconds']:11.3f}"
            f" {slowest / found['seconds']:9.1f}x {gigaflops} {len(found['runs']):5} {equal:5}"
            f" {found.get('note', '')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gradients", type=Path, help="file of real_gradients.py, made if missing")
    parser.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--select", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also under torch.compile")
    parser.add_argument("--large", type=Path, help="also N = 20,000, from this file")
    parser.add_argument("--large-size", type=int, nargs=2, default=(20_000, 1_000))
    parser.add_argument("--large-repeats", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, help="JSON file; dated in benchmarks/results if none"
    )
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.gradients, *arguments.peak)
        return
    pool = cached(arguments.samples, arguments.gradients, arguments.data_root)
    record: dict[str, Any] = {"machine": machine()}
    record["gradients"] = pool.name
    record["k"] = pool.factors.n_columns
    for key, value in record["machine"].items():
        print(f"{key}: {value:.1f}" if isinstance(value, float) else f"{key}: {value}")
    print(pool.name)
    print(f"{'':18} {'N':>7} {'K':>6} {'seconds':>11} {'faster':>10} {'GFLOP/s':>8}  runs equal")
    record["rows"] = compare(pool.factors, arguments.select, arguments.repeats, arguments.compiled)
    print_rows(record["rows"])
    if arguments.large:
        size = arguments.large_size
        more = large(arguments.large, arguments.data_root, *size, arguments.large_repeats)
        record["large"] = more
        print_rows(more["rows"])
        print(f"passes per pick after the first 50: {more['late_passes_per_pick']:.3f}")
        print("GiB resident: {before:.2f} before, {peak:.2f} at most".format(**more["memory"]))
    write_record("selection", record, arguments.output)


if __name__ == "__main__":
    main()
