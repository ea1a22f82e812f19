"""The GPU table in one run: checks, then the times of selection, gradients and a whole round.

    python benchmarks/gpu.py                      # on the current CUDA device
    python benchmarks/gpu.py --device cpu --small # the script's own logic, on any machine

Every row is timed beside what the card itself can do, measured in the same run (copy bandwidth,
matmul rates), and beside the published formula on the same card, of which a few picks or samples
are timed and the rest is extrapolated. Writes a dated JSON file to benchmarks/results. Ends with
exit code 1 where a check fails. Rows for which no time or memory is left are said to be not
measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baselines import Task, extrapolated, published
from bench_fisher_diagonal import published_diagonal
from gradient_problem import Problem, forward_and_passes, published_rows
from real_gradients import resampled_gradients
from torch import Tensor

from fishermask_fast import (
    FisherMask,
    FisherMaskSelector,
    GradientFactors,
    build_info,
    fisher_diagonal,
    masked_gradients,
    select_batch,
)
from fishermask_fast.models.networks import resnet18_small

RESULTS = Path(__file__).parent / "results"
TESTS = Path(__file__).parents[1] / "tests"
FRACTION = 0.002
PUBLISHED_PICKS = 3
PUBLISHED_SAMPLES = 4


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `small` only runs the script through."""

    pool: int = 25_000
    picks: int = 1_200
    large_pool: int = 1_000_000
    large_picks: int = 1_000
    wide_columns: int = 22_000
    wide_picks: int = 100
    batch: int = 512
    fisher_samples: int = 1_024
    copied: int = 2**28  # float32 numbers
    matmul: int = 8_192
    repeats: int = 3


SMALL = Sizes(200, 20, 400, 20, 300, 10, 16, 16, 2**20, 256, 1)


class Clock:
    """Times work on a device, and knows when the run must end."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        return self._end - time.perf_counter()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, work: Callable[[], Any]) -> tuple[float, Any]:
        self.wait()
        start = time.perf_counter()
        result = work()
        self.wait()
        return time.perf_counter() - start, result

    def median(self, work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
        """After one call that is not counted; fewer where time runs out."""
        seconds, result = [self.once(work)[0]], None
        for _ in range(repeats):
            if len(seconds) > 1 and self.left < 2 * seconds[-1]:
                break
            took, result = self.once(work)
            seconds.append(took)
        return statistics.median(seconds[1:]), result


def card_rates(clock: Clock, sizes: Sizes) -> dict[str, float]:
    """GB/s of a copy (read and written), and GFLOP/s of square products without TF32."""
    source = torch.randn(sizes.copied, device=clock.device)
    target = torch.empty_like(source)
    seconds, _ = clock.median(lambda: target.copy_(source), 5)
    rates = {"copy_gb_per_s": 2e-9 * 4 * sizes.copied / seconds}
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(sizes.matmul, sizes.matmul, dtype=dtype, device=clock.device)
        seconds, _ = clock.median(lambda x=x: x @ x, 5)
        rates[f"matmul_{str(dtype)[6:]}_gflop_per_s"] = 2e-9 * sizes.matmul**3 / seconds
    return rates


def machine(device: torch.device) -> dict[str, Any]:
    info = build_info()
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda_ops": info.cuda}
    facts["architectures"] = info.cuda_architectures
    if device.type == "cuda":
        facts["card"] = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True).stdout
        except FileNotFoundError:
            answer = ""
        facts["driver"] = answer.splitlines()[0] if answer else "unknown"
    return facts


def failed_ops(device: torch.device) -> list[str]:
    """The samples on which an op differs from its definition, with how."""
    sys.path.insert(0, str(TESTS))
    import op_samples

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    failures = []
    for name in sorted(set(op_samples.SAMPLES) - set(op_samples.CPU_ONLY)):
        samples = op_samples.SAMPLES[name]
        for sample in samples():
            moved = op_samples.Sample(
                sample.label,
                tuple(map(move, sample.arguments)),
                tuple(map(move, sample.returned)),
                {at: move(value) for at, value in sample.changed.items()},
                sample.bound,
            )
            try:
                op_samples.check_sample(name, moved)
            except Exception as error:  # a failure is a line of the report
                failures.append(f"{name} ({sample.label}): {str(error).splitlines()[0]}")
    return failures


def resampled(factors: GradientFactors, n: int, size: float = 0.01) -> GradientFactors:
    """n samples drawn on the factors' own device, each number times 1 + `size` normal."""
    torch.manual_seed(0)
    drawn = torch.randint(len(factors), (n,), device=factors.device)

    def part(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        out = values[drawn]
        for chunk in out.split(50_000):
            chunk.mul_(torch.randn_like(chunk).mul_(size).add_(1.0))
        return out

    middle = part(factors.middle)
    assert middle is not None
    return GradientFactors(middle, part(factors.coupling), part(factors.hidden))


def v_bytes(factors: GradientFactors) -> int:
    parts = (factors.middle, factors.coupling, factors.hidden)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


def selection_row(
    name: str,
    clock: Clock,
    factors: GradientFactors,
    n_select: int,
    repeats: int,
    exact: bool = False,
    formula: bool = False,
) -> dict[str, Any]:
    """One selection with F given; `exact` compares with float64 throughout."""
    fisher = factors.fisher()
    before = torch.cuda.max_memory_allocated() if clock.device.type == "cuda" else 0
    seconds, found = clock.median(lambda: select_batch(factors, n_select, fisher), repeats)
    row: dict[str, Any] = {
        "row": name,
        "n": len(factors),
        "k": factors.n_columns,
        "picks": n_select,
        "seconds": seconds,
        "setups": found.setups,
        "passes": found.passes,
        "read_of_v_gb": 1e-9 * v_bytes(factors),
    }
    if clock.device.type == "cuda":
        row["memory_gb"] = 1e-9 * max(torch.cuda.max_memory_allocated(), before)
    if exact:
        wanted = select_batch(factors, n_select, fisher, precision="float64")
        row["picks_equal_float64"] = bool(torch.equal(found.indices, wanted.indices))
    early = min(50, n_select // 2)
    first = select_batch(factors, early, fisher).passes
    row["late_passes_per_pick"] = (found.passes - first) / (n_select - early)
    if formula:
        task = Task(factors.dense(), n_select, fisher)
        row["published_seconds"] = extrapolated(published(task, PUBLISHED_PICKS), n_select)
        row["published_from"] = f"{PUBLISHED_PICKS} picks, extrapolated"
    return row


def wide_row(name: str, clock: Clock, sizes: Sizes) -> dict[str, Any]:
    """Many columns: the picks after the first, against as many reads of V."""
    n, r, k = sizes.pool, 10, sizes.wide_columns
    torch.manual_seed(0)
    factors = GradientFactors(torch.randn(n, r, k, device=clock.device).mul_(0.1))
    weights = torch.rand(k, dtype=torch.float64, device=clock.device)
    fisher = torch.diag(weights)
    one, _ = clock.once(lambda: select_batch(factors, 1, fisher))
    one, _ = clock.once(lambda: select_batch(factors, 1, fisher))
    seconds, found = clock.once(lambda: select_batch(factors, sizes.wide_picks, fisher))
    return {
        "row": name,
        "n": n,
        "k": k,
        "picks": sizes.wide_picks,
        "seconds": seconds,
        "seconds_without_setup": seconds - one,
        "setups": found.setups,
        "passes": found.passes,
        "read_of_v_gb": 1e-9 * v_bytes(factors),
    }


def network_rows(clock: Clock, sizes: Sizes) -> list[dict[str, Any]]:
    """Masked gradients against the passes that they need, and a round against the published one."""
    torch.manual_seed(0)
    model = resnet18_small(10, 3).eval().to(clock.device)
    images = torch.randn(sizes.pool, 3, 32, 32, device=clock.device)
    scores = fisher_diagonal(model, images, n_samples=16)
    mask = FisherMask.from_scores(scores, FRACTION)
    seconds, _ = clock.median(
        lambda: masked_gradients(model, images, mask, batch_size=sizes.batch), sizes.repeats
    )
    problem = Problem(model, images[: sizes.batch], mask)
    bound, _ = clock.median(lambda: forward_and_passes(problem, 9, full=False), sizes.repeats)
    bound *= sizes.pool / len(problem.images)
    few, _ = clock.once(lambda: published_rows(problem, PUBLISHED_SAMPLES))
    slow_gradients = few * sizes.pool / PUBLISHED_SAMPLES
    gradients = {
        "row": "masked gradients",
        "n": sizes.pool,
        "seconds": seconds,
        "bound_seconds": bound,
        "published_seconds": slow_gradients,
        "published_from": f"{PUBLISHED_SAMPLES} samples, extrapolated",
    }

    def round_of_selection() -> Any:
        selector = FisherMaskSelector(
            model, fraction=FRACTION, fisher_samples=sizes.fisher_samples, batch_size=sizes.batch
        )
        return selector.query(images, sizes.picks, progress=False)

    seconds, _ = clock.median(round_of_selection, sizes.repeats)
    few, _ = clock.once(lambda: published_diagonal(problem, PUBLISHED_SAMPLES))
    slow = slow_gradients + few * sizes.fisher_samples / PUBLISHED_SAMPLES
    factors = masked_gradients(model, images, mask, batch_size=sizes.batch)
    task = Task(factors.dense(), sizes.picks, factors.fisher())
    slow += extrapolated(published(task, PUBLISHED_PICKS), sizes.picks)
    whole = {
        "row": "whole round",
        "n": sizes.pool,
        "picks": sizes.picks,
        "seconds": seconds,
        "published_seconds": slow,
        "published_from": f"{PUBLISHED_SAMPLES} samples and {PUBLISHED_PICKS} picks, extrapolated",
    }
    return [gradients, whole]


def judge(row: dict[str, Any], rates: dict[str, float]) -> None:
    """Adds the floor of the card, and what is to be reached, to a row."""
    name, seconds = row["row"], row["seconds"]
    if "read_of_v_gb" in row:
        row["one_read_of_v_seconds"] = row["read_of_v_gb"] / rates["copy_gb_per_s"]
    wanted: dict[str, tuple[str, bool]] = {
        "selection, structured": ("<= 0.25 s", seconds <= 0.25),
        "selection, dense": ("<= 0.6 s", seconds <= 0.6),
        "selection, large": ("<= 5 s, under 20 GB", seconds <= 5 and row.get("memory_gb", 0) < 20),
        "selection, dense, many columns": (
            "<= 0.3 of a read of V a pick",
            row.get("seconds_without_setup", seconds)
            <= 0.3 * row.get("picks", 0) * row.get("one_read_of_v_seconds", 0.0),
        ),
        "masked gradients": (
            "<= 1.5 x the passes",
            seconds <= 1.5 * row.get("bound_seconds", 0.0),
        ),
        "whole round": (
            "<= 3 s, >= 1,000 x published",
            seconds <= 3 and row.get("published_seconds", 0.0) >= 1000 * seconds,
        ),
    }
    row["to_reach"], row["reached"] = wanted[name]


def print_row(row: dict[str, Any]) -> None:
    times = ""
    if "published_seconds" in row:
        times = f"published {row['published_seconds'] / row['seconds']:.0f}x (extrapolated)"
    more = {
        key: row[key]
        for key in ("picks_equal_float64", "late_passes_per_pick", "setups", "bound_seconds")
        if key in row
    }
    print(
        f"{row['row']:32} {row['seconds']:9.3f} s  to reach {row['to_reach']:30} "
        f"{'yes' if row['reached'] else 'NO':3}  {times:32} {more}",
        flush=True,
    )


def measured(
    name: str, plan: Callable[[str], list[dict[str, Any]]], clock: Clock
) -> list[dict[str, Any]]:
    """The rows of a plan, or one that says why there are none."""
    if clock.left <= 0:
        return [{"row": name, "not_measured": "no time was left"}]
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return plan(name)
    except torch.OutOfMemoryError as error:
        return [{"row": name, "not_measured": str(error).splitlines()[0]}]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="run through, on tiny sizes")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all of it")
    parser.add_argument("--output", type=Path, help="JSON; dated in benchmarks/results if none")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --small only runs it through")
    sizes = SMALL if arguments.small else Sizes()
    clock = Clock(device, arguments.seconds)
    torch.set_float32_matmul_precision("highest")
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), **machine(device)}
    record["sizes"] = vars(sizes)
    record["failed_checks"] = failed_ops(device)
    record |= card_rates(clock, sizes)
    for key, value in record.items():
        print(f"{key}: {value}", flush=True)

    real = resampled_gradients(sizes.pool).factors.to(device)
    select = partial(selection_row, clock=clock, repeats=sizes.repeats)
    plans: dict[str, Callable[[str], list[dict[str, Any]]]] = {
        "selection, structured": lambda name: [
            select(name, factors=real, n_select=sizes.picks, exact=True, formula=True)
        ],
        "selection, dense": lambda name: [
            select(name, factors=GradientFactors(real.dense()), n_select=sizes.picks, exact=True)
        ],
        "masked gradients, whole round": lambda name: network_rows(clock, sizes),
        "selection, large": lambda name: [
            select(name, factors=resampled(real, sizes.large_pool), n_select=sizes.large_picks)
        ],
        "selection, dense, many columns": lambda name: [wide_row(name, clock, sizes)],
    }
    record["rows"] = []
    output = arguments.output or RESULTS / f"gpu-{record['date']}.json"
    output.parent.mkdir(exist_ok=True)
    for name, plan in plans.items():
        for row in measured(name, plan, clock):
            if "not_measured" in row:
                print(f"{name:32} not measured: {row['not_measured']}", flush=True)
            else:
                judge(row, record)
                print_row(row)
            record["rows"].append(row)
        # After every plan: what a later one meets must not cost what was measured.
        output.write_text(json.dumps(record, indent=1) + "\n")
    print(output)
    unequal = [row for row in record["rows"] if row.get("picks_equal_float64") is False]
    return 1 if record["failed_checks"] or unequal else 0


if __name__ == "__main__":
    sys.exit(main())
