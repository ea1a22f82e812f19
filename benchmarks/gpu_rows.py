"""The rows of the GPU table: what each measures, and what it is to reach.

Every row is timed beside what the card itself can do, measured in the same run (copy bandwidth,
matmul rates), and beside the published formula on the same card, of which a few picks or samples
are timed and the rest is extrapolated. A plan yields a row as soon as it has its time, and again
with what is found out after.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from baselines import Task, extrapolated, published
from bench_fisher_diagonal import published_diagonal
from gradient_problem import Problem, forward_and_passes, published_rows
from plain_resnet import plain_resnet18
from resampled import resampled_gradients
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

Row = dict[str, Any]

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


def machine(device: torch.device) -> Row:
    info = build_info()
    facts: Row = {"torch": torch.__version__, "cuda_ops": info.cuda}
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
                line = next(iter(str(error).splitlines()), type(error).__name__)
                failures.append(f"{name} ({sample.label}): {line}")
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


def card(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    """What the machine is, whether its ops are right, and how fast it copies and multiplies."""
    row: Row = {"row": "card", **machine(clock.device), "sizes": vars(sizes)}
    row |= card_rates(clock, sizes)
    yield row
    row["failed_checks"] = failed_ops(clock.device)
    yield row


def selection_rows(
    name: str, clock: Clock, factors: GradientFactors, n_select: int, repeats: int, formula: bool
) -> Iterator[Row]:
    """One selection with F given, its picks against float64's, and the published formula."""
    fisher = factors.fisher()
    seconds, found = clock.median(lambda: select_batch(factors, n_select, fisher), repeats)
    row: Row = {
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
        row["memory_gb"] = 1e-9 * torch.cuda.max_memory_allocated()
    yield row
    early = min(50, n_select // 2)
    first = select_batch(factors, early, fisher).passes
    row["late_passes_per_pick"] = (found.passes - first) / (n_select - early)
    yield row
    wanted = select_batch(factors, n_select, fisher, precision="float64")
    row["picks_equal_float64"] = bool(torch.equal(found.indices, wanted.indices))
    yield row
    if formula:
        task = Task(factors.dense(), n_select, fisher)
        row["published_seconds"] = extrapolated(published(task, PUBLISHED_PICKS), n_select)
        row["published_from"] = f"{PUBLISHED_PICKS} picks, extrapolated"
        yield row


def structured(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    factors = resampled_gradients(sizes.pool).factors.to(clock.device)
    yield from selection_rows(
        "selection, structured", clock, factors, sizes.picks, sizes.repeats, formula=True
    )


def dense(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    factors = GradientFactors(resampled_gradients(sizes.pool).factors.to(clock.device).dense())
    yield from selection_rows(
        "selection, dense", clock, factors, sizes.picks, sizes.repeats, formula=False
    )


def large(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    real = resampled_gradients(sizes.pool).factors.to(clock.device)
    factors = resampled(real, sizes.large_pool)
    del real
    yield from selection_rows(
        "selection, large", clock, factors, sizes.large_picks, 1, formula=False
    )


def wide(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    """Many columns: the picks after the first, against their products and reads of V."""
    n, r, k = sizes.pool, 10, sizes.wide_columns
    torch.manual_seed(0)
    factors = GradientFactors(torch.randn(n, r, k, device=clock.device).mul_(0.1))
    fisher = torch.diag(torch.rand(k, dtype=torch.float64, device=clock.device))
    clock.once(lambda: select_batch(factors, 1, fisher))
    one, _ = clock.once(lambda: select_batch(factors, 1, fisher))
    seconds, found = clock.once(lambda: select_batch(factors, sizes.wide_picks, fisher))
    later = sizes.wide_picks - 1
    row: Row = {
        "row": "selection, dense, many columns",
        "n": n,
        "k": k,
        "picks": sizes.wide_picks,
        "seconds": seconds,
        "seconds_without_setup": seconds - one,
        "setups": found.setups,
        "passes": found.passes,
        "read_of_v_gb": 1e-9 * v_bytes(factors),
        # V [U W] of every later pick, 2 r columns.
        "product_gflop": 1e-9 * 2 * n * r * k * 2 * r * later,
    }
    if clock.device.type == "cuda":
        row["memory_gb"] = 1e-9 * torch.cuda.max_memory_allocated()
    yield row


def gradients(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    """Masked gradients against the passes that they need."""
    model, images, mask = network(clock, sizes)
    seconds, _ = clock.median(
        lambda: masked_gradients(model, images, mask, batch_size=sizes.batch), sizes.repeats
    )
    row: Row = {"row": "masked gradients", "n": sizes.pool, "seconds": seconds}
    yield row
    problem = Problem(model, images[: sizes.batch], mask)
    bound, _ = clock.median(lambda: forward_and_passes(problem, 9, full=False), sizes.repeats)
    row["bound_seconds"] = bound * sizes.pool / len(problem.images)
    yield row
    few, _ = clock.once(lambda: published_rows(problem, PUBLISHED_SAMPLES))
    row["published_seconds"] = few * sizes.pool / PUBLISHED_SAMPLES
    row["published_from"] = f"{PUBLISHED_SAMPLES} samples, extrapolated"
    yield row


def whole_round(clock: Clock, sizes: Sizes) -> Iterator[Row]:
    """A query from model and images to a batch, against the published code's three steps."""
    model, images, mask = network(clock, sizes)

    def query() -> Any:
        selector = FisherMaskSelector(
            model, fraction=FRACTION, fisher_samples=sizes.fisher_samples, batch_size=sizes.batch
        )
        return selector.query(images, sizes.picks, progress=False)

    seconds, _ = clock.median(query, sizes.repeats)
    row: Row = {"row": "whole round", "n": sizes.pool, "picks": sizes.picks, "seconds": seconds}
    yield row
    problem = Problem(model, images[: sizes.batch], mask)
    few, _ = clock.once(lambda: published_rows(problem, PUBLISHED_SAMPLES))
    slow = few * sizes.pool / PUBLISHED_SAMPLES
    few, _ = clock.once(lambda: published_diagonal(problem, PUBLISHED_SAMPLES))
    slow += few * sizes.fisher_samples / PUBLISHED_SAMPLES
    factors = masked_gradients(model, images, mask, batch_size=sizes.batch)
    task = Task(factors.dense(), sizes.picks, factors.fisher())
    slow += extrapolated(published(task, PUBLISHED_PICKS), sizes.picks)
    row["published_seconds"] = slow
    row["published_from"] = f"{PUBLISHED_SAMPLES} samples and {PUBLISHED_PICKS} picks, extrapolated"
    yield row


def network(clock: Clock, sizes: Sizes) -> tuple[torch.nn.Module, Tensor, FisherMask]:
    torch.manual_seed(0)
    model = plain_resnet18(10).eval().to(clock.device)
    images = torch.randn(sizes.pool, 3, 32, 32, device=clock.device)
    scores = fisher_diagonal(model, images, n_samples=16)
    return model, images, FisherMask.from_scores(scores, FRACTION)


# What is worth most comes first: where time runs out, the last are missing.
PLANS: dict[str, Callable[[Clock, Sizes], Iterator[Row]]] = {
    "card": card,
    "selection, structured": structured,
    "whole round": whole_round,
    "selection, dense": dense,
    "selection, large": large,
    "selection, dense, many columns": wide,
    "masked gradients": gradients,
}


def judge(row: Row, rates: Row) -> None:
    """Adds the floor of the card, and what is to be reached, to a row."""
    seconds = row["seconds"]
    if "read_of_v_gb" in row and "copy_gb_per_s" in rates:
        row["one_read_of_v_seconds"] = row["read_of_v_gb"] / rates["copy_gb_per_s"]
    if "product_gflop" in row and "matmul_float32_gflop_per_s" in rates:
        products = row["product_gflop"] / rates["matmul_float32_gflop_per_s"]
        row["floor_seconds"] = max(products, row["passes"] * row["one_read_of_v_seconds"])
    wanted: dict[str, tuple[str, bool]] = {
        "selection, structured": ("<= 0.25 s", seconds <= 0.25),
        "selection, dense": ("<= 0.6 s", seconds <= 0.6),
        "selection, large": ("<= 5 s, under 20 GB", seconds <= 5 and row.get("memory_gb", 0) < 20),
        "selection, dense, many columns": (
            "<= 1.2 x the floor",
            row.get("seconds_without_setup", seconds) <= 1.2 * row.get("floor_seconds", 0.0),
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
    row["to_reach"], row["reached"] = wanted[row["row"]]
