"""The CUDA kernels, run on the CPU in several orders: the ops' definitions, and Engine's picks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import emulated
import pytest
import test_score_update as on_cpu
import torch
from emulated_build import ROOT, build, why_not
from op_samples import CPU_ONLY, SAMPLES, check_sample
from pools import (
    ADVERSARIAL,
    HEADS,
    assert_same_course,
    greedy,
    picks,
    random_factors,
    random_fisher,
)
from torch import Tensor

from fishermask_fast import GradientFactors, Selection, select_batch
from fishermask_fast.engine.device_blocks import BlockEngine
from fishermask_fast.factors.inverse_products import inverse_products_by_torch

# Of these a GPU's own kernels are products of torch.
OPS = sorted(set(SAMPLES) - set(CPU_ONLY) - {"inverse_products"})


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """The emulated build, made where it is not there or has become old.

    FISHERMASK_EMULATED names another: one with sanitizers, or with a bug planted in it.
    """
    if "FISHERMASK_EMULATED" in os.environ:
        return emulated.load(Path(os.environ["FISHERMASK_EMULATED"]))
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = ROOT / "build" / "cuda-on-cpu"
    folder.mkdir(parents=True, exist_ok=True)
    with Path(folder, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes that test builds
        try:
            path = build(folder)
        except subprocess.CalledProcessError as error:
            pytest.fail(error.stderr)
    return emulated.load(path)


def on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package calls the emulated ops."""
    for name in OPS:
        monkeypatch.setattr(torch.ops.fishermask_fast, name, emulated.op(name))
    monkeypatch.setattr(torch.ops.fishermask_fast, "inverse_products", inverse_products_by_torch)


@pytest.fixture(params=emulated.SCHEDULES)
def every_schedule(
    request: pytest.FixtureRequest, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    on_the_card(monkeypatch)
    with emulated.scheduled(library, emulated.SCHEDULES[request.param]):
        yield


@pytest.fixture
def small_card(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads in random order; chunks of few candidates, and blocks that take many each."""
    on_the_card(monkeypatch)
    with emulated.scheduled(library, emulated.SCHEDULES["random, a small card"]):
        yield


@pytest.mark.parametrize("name", OPS)
def test_ops_equal_their_definitions(
    name: str, every_schedule: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("op_samples.NAMESPACE", emulated.NAMESPACE)
    for sample in SAMPLES[name]():
        check_sample(name, sample)


def test_products_with_symmetric_matrices_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the CPU's inverse_products, where a block holds not all columns."""
    monkeypatch.setattr("fishermask_fast.factors.inverse_products._BLOCK", 7)
    for sample in SAMPLES["inverse_products"]():
        found = inverse_products_by_torch(*sample.arguments)
        for part, expected in zip(found, sample.returned, strict=True):
            torch.testing.assert_close(part, expected, rtol=sample.bound, atol=sample.bound)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sizes", on_cpu.WIDE.values(), ids=on_cpu.WIDE.keys())
def test_score_update(
    sizes: dict[str, Any],
    head: str,
    small_card: None,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    on_cpu.check(on_cpu.make_problem(generator, 2, head=head, **sizes), assert_close)


# The most rows of each shape of update_by_group, one more, and fewer; beyond the last are blocks.
@pytest.mark.parametrize("r", [1, 2, 3, 6, 7, 9, 10, 11, 20, 21, 24, 25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_score_update_by_groups(
    r: int,
    dtype: torch.dtype,
    every_schedule: None,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    sizes = {"n": 19, "r": r, "m": 5, "c": r, "d": 7, "head": "part"}
    problem = on_cpu.make_problem(generator, ranks=[r, 1, r], **sizes, dtype=dtype)
    on_cpu.check(problem, assert_close, dtype=dtype, float64_products=dtype == torch.float64)


def test_score_update_with_a_coupling_too_large_for_shared_memory(
    every_schedule: None, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    for r, head in ((1, "whole"), (9, "part")):
        problem = on_cpu.make_problem(generator, 2, n=11, r=r, m=3, c=300, d=1, head=head)
        on_cpu.check(problem, assert_close)


def test_score_update_by_many_blocks(
    every_schedule: None, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    """Matrices too large for a warp's shared memory: blocks at work at once have each their own."""
    sizes = on_cpu.WIDE["hundred classes"]
    on_cpu.check(on_cpu.make_problem(generator, 1, head="part", **sizes), assert_close)


@pytest.mark.parametrize(
    ("n", "ranks"),
    [(1, [3]), (2, [1, 3, 2]), (33, [0, 2, 0, 3]), (40, [3] * 70), (150, [3, 3]), (150, [2] * 65)],
)
def test_any_number_of_updates_and_candidates(
    n: int,
    ranks: list[int],
    every_schedule: None,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    problem = on_cpu.make_problem(generator, ranks=ranks, n=n, head="part")
    indices = [problem.index, torch.arange(n)[:0]]
    if len(ranks) < 10:  # more picks leave their own scores to rounding
        indices += [torch.arange(n), torch.arange(n - 1, n)]
    for index in indices:
        on_cpu.check(on_cpu.replace(problem, index=index), assert_close)


def selections(
    monkeypatch: pytest.MonkeyPatch, gradients: GradientFactors | Tensor, **options: Any
) -> tuple[Selection, Selection]:
    """By blocks through the emulated kernels, and by Engine and the CPU's in float64."""
    with monkeypatch.context() as patch:
        on_the_card(patch)
        patch.setattr("fishermask_fast.engine.greedy.Engine", BlockEngine)
        found = select_batch(gradients, **options)
    return found, select_batch(gradients, **options, precision="float64")


@pytest.mark.parametrize("lamb", [1.0, 0.01])
@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_pools_full_of_ties(
    kind: str,
    lamb: float,
    small_card: None,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ADVERSARIAL[kind](generator)
    fisher = random_fisher(generator, pool.shape[2])
    n_select = min(len(pool), 15)
    monkeypatch.setattr("fishermask_fast.engine.greedy.Engine", BlockEngine)
    found = select_batch(pool, n_select, fisher, lamb=lamb)
    assert picks(found) == greedy(pool.double(), n_select, fisher, lamb=lamb)


@pytest.mark.parametrize("head", ["none", "part", "only"])
@pytest.mark.parametrize(("classes", "n", "n_select"), [(2, 150, 40), (10, 150, 40), (100, 12, 4)])
def test_classes(
    classes: int,
    n: int,
    n_select: int,
    head: str,
    library: ctypes.CDLL,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = classes - 1
    factors = random_factors(
        generator, n=n, r=r, m=r + 7, c=classes, d=5, head=head, dtype=torch.float32
    )
    fisher = random_fisher(generator, factors.n_columns)
    before = emulated.counts(library)["launches"]
    with emulated.scheduled(library, emulated.Schedule("random", processors=3, resident=2, seed=4)):
        found, expected = selections(
            monkeypatch, factors, n_select=n_select, fisher=fisher, lamb=0.1
        )
    assert emulated.counts(library)["launches"] > before
    assert_same_course(found, expected)


@pytest.mark.parametrize(("lamb", "size"), [(0.02, 1.0), (1e-3, 30.0)])
@pytest.mark.parametrize("head", ["none", "part"])
def test_removals(
    head: str,
    lamb: float,
    size: float,
    library: ctypes.CDLL,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors = random_factors(generator, n=60, r=4, m=9, c=5, d=6, head=head, dtype=torch.float32)
    factors = factors.map(lambda part: part * size)
    fisher = random_fisher(generator, factors.n_columns)
    with emulated.scheduled(library, emulated.Schedule("random", processors=3, resident=2, seed=5)):
        found, expected = selections(
            monkeypatch, factors, n_select=20, fisher=fisher, lamb=lamb, backward_steps=1
        )
    assert_same_course(found, expected)
