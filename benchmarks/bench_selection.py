"""One pick, a whole selection, its set-up and its backward steps, and sweeps of every size.

    pytest benchmarks/bench_selection.py --benchmark-json=out.json -k "small or sweep"
    python benchmarks/plot.py out.json

Groups hold `published`, `torch`, `compiled` (see baselines.py) and `ours`, on the dense tensor and
on structured factors, all float32 with F given. `published` and a pick of `torch` recompute or
update all N candidates; a pick of `ours` is one pass of the compiled op.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from baselines import RankUpdates, Task, compiled_update, published, torch_updates
from real_gradients import resampled_gradients
from torch import Tensor

from fishermask_fast import GradientFactors, reference, select_batch
from fishermask_fast.engine.blocks import Engine
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.problem import Problem
from fishermask_fast.ops import selection as ops

SIZES = {"small": (300, 20), "full": (1500, 200)}
SIZE = pytest.mark.parametrize(("n", "n_select"), SIZES.values(), ids=SIZES.keys())
STRUCTURED = pytest.mark.parametrize("structured", [True, False], ids=["structured", "dense"])


@cache
def real(n: int) -> tuple[GradientFactors, Tensor]:
    factors = resampled_gradients(n).factors
    return factors, factors.fisher()


@cache
def dense(n: int) -> GradientFactors:
    return GradientFactors(real(n)[0].dense())


def gradients(n: int, structured: bool) -> GradientFactors:
    return real(n)[0] if structured else dense(n)


def task(n: int, n_select: int) -> Task:
    return Task(dense(n).middle, n_select, real(n)[1])


def random_factors(n: int, c: int, d: int, m: int) -> GradientFactors:
    generator = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(n, c, generator=generator)).softmax(1)
    coupling = p.sqrt()[:, :, None] * (torch.eye(c) - p[:, None, :])
    middle = 0.1 * coupling @ torch.randn(n, c, m, generator=generator)
    return GradientFactors(middle, coupling, torch.rand(n, d, generator=generator))


def run(benchmark: Any, function: Callable[[], Any], rounds: int = 5) -> Any:
    return benchmark.pedantic(function, rounds=rounds, iterations=1, warmup_rounds=1)


@SIZE
class TestOnePick:
    """One pick of the first, float64 stretch of a selection."""

    def test_published(self, benchmark: Any, n: int, n_select: int) -> None:
        benchmark.group = f"one pick, N = {n}"
        run(benchmark, lambda: published(task(n, n_select), 1), rounds=2)

    @pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
    def test_torch(self, benchmark: Any, n: int, n_select: int, compiled: bool) -> None:
        benchmark.group = f"one pick, N = {n}"
        state = RankUpdates(task(n, n_select), compiled)
        run(benchmark, state.pick)

    @STRUCTURED
    @pytest.mark.parametrize("product", ["float64", "float32"])
    @pytest.mark.parametrize("n_updates", [1, 8])
    def test_ours(
        self,
        benchmark: Any,
        n: int,
        n_select: int,
        structured: bool,
        product: str,
        n_updates: int,
    ) -> None:
        benchmark.group = f"one pick, N = {n}"
        benchmark.extra_info["picks"] = n_updates
        factors = gradients(n, structured)
        r, k = factors.n_rows, factors.n_columns
        u, w = 1e-6 * torch.randn(2, n_updates * r, k, dtype=torch.float64)
        rows, columns = torch.tril_indices(r, r)
        a = torch.eye(r, dtype=torch.float64)[rows, columns].repeat(n, 1)
        b, scores = a.clone(), torch.zeros(n, dtype=torch.float64)
        index, limits = torch.arange(n), torch.zeros(n_updates, dtype=torch.float64)
        run(
            benchmark,
            lambda: ops.score_update(
                factors,
                index,
                u,
                w,
                [r] * n_updates,
                limits,
                a,
                b,
                scores,
                float64_products=product == "float64",
            ),
        )


@SIZE
class TestWholeSelection:
    @pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
    def test_torch(self, benchmark: Any, n: int, n_select: int, compiled: bool) -> None:
        benchmark.group = f"selection, N = {n}, K = {n_select}"
        if compiled:
            compiled_update()
        run(benchmark, lambda: torch_updates(task(n, n_select), compiled=compiled), rounds=2)

    @STRUCTURED
    def test_ours(self, benchmark: Any, n: int, n_select: int, structured: bool) -> None:
        benchmark.group = f"selection, N = {n}, K = {n_select}"
        pool, fisher = gradients(n, structured), real(n)[1]
        found = run(benchmark, lambda: select_batch(pool, n_select, fisher))
        benchmark.extra_info.update(passes=found.passes, setups=found.setups)


@SIZE
class TestSetUp:
    def test_torch(self, benchmark: Any, n: int, n_select: int) -> None:
        benchmark.group = f"set-up, N = {n}"
        run(benchmark, lambda: RankUpdates(task(n, n_select)))

    @STRUCTURED
    def test_ours(self, benchmark: Any, n: int, n_select: int, structured: bool) -> None:
        benchmark.group = f"set-up, N = {n}"
        pool, problem = gradients(n, structured), Problem(real(n)[1], None, 1.0, 0, n_select)
        run(benchmark, lambda: Engine(problem, LocalCandidates(pool, problem.scale, 1)))

    @STRUCTURED
    def test_fisher(self, benchmark: Any, n: int, n_select: int, structured: bool) -> None:
        benchmark.group = f"Fisher matrix, N = {n}"
        run(benchmark, gradients(n, structured).fisher)


@SIZE
class TestBackwardSteps:
    def test_published(self, benchmark: Any, n: int, n_select: int) -> None:
        if n_select > 20:
            pytest.skip("takes hours")
        benchmark.group = f"backward steps, N = {n}, K = {n_select // 4}"
        given = task(n, n_select)
        run(
            benchmark,
            lambda: reference.select(
                given.gradients, n_select // 4, given.fisher.float(), backward_steps=1
            ),
            rounds=1,
        )

    @STRUCTURED
    def test_ours(self, benchmark: Any, n: int, n_select: int, structured: bool) -> None:
        benchmark.group = f"backward steps, N = {n}, K = {n_select // 4}"
        pool, fisher = gradients(n, structured), real(n)[1]
        run(benchmark, lambda: select_batch(pool, n_select // 4, fisher, backward_steps=1))


@pytest.mark.parametrize("n", [250, 500, 1000, 2000])
def test_sweep_of_n(benchmark: Any, n: int) -> None:
    benchmark.group = "sweep of N, K = 40"
    pool, fisher = real(n)
    run(benchmark, lambda: select_batch(pool, 40, fisher), rounds=3)


@pytest.mark.parametrize("n_select", [25, 50, 100, 200])
def test_sweep_of_n_select(benchmark: Any, n_select: int) -> None:
    benchmark.group = "sweep of K, N = 500"
    pool, fisher = real(500)
    run(benchmark, lambda: select_batch(pool, n_select, fisher), rounds=3)


@pytest.mark.parametrize("c", [2, 7, 10, 32, 64])
def test_sweep_of_classes(benchmark: Any, c: int) -> None:
    benchmark.group = "sweep of C, N = 300, d = 16, 40 masked outside the head, K = 20"
    pool = random_factors(300, c, 16, 40)
    fisher = pool.fisher()
    run(benchmark, lambda: select_batch(pool, 20, fisher), rounds=3)


@pytest.mark.parametrize("outside", [0, 122, 123, 500, 1000])
def test_sweep_of_masked_parameters(benchmark: Any, outside: int) -> None:
    benchmark.group = "sweep of k = 1,280 + x, N = 300, C = 10, d = 128, K = 20"
    pool = random_factors(300, 10, 128, outside)
    fisher = pool.fisher()
    run(benchmark, lambda: select_batch(pool, 20, fisher), rounds=3)


@pytest.mark.parametrize("chunk_size", [10, 50, 200, 1000, None])
def test_sweep_of_chunk_size(benchmark: Any, chunk_size: int | None) -> None:
    benchmark.group = "sweep of chunk size, N = 1,000, K = 20"
    pool, fisher = real(1000)
    run(benchmark, lambda: select_batch(pool, 20, fisher, chunk_size=chunk_size), rounds=3)
