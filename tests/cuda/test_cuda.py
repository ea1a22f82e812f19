"""The CUDA ops and the selection on a card, against the float64 definitions and the CPU's picks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import test_score_update as on_cpu
import torch
from op_samples import CPU_ONLY, SAMPLES, Sample, check_sample, operator
from pools import (
    ADVERSARIAL,
    HEADS,
    oracle,
    oracle_arguments,
    picks,
    random_factors,
    random_fisher,
)
from torch import Tensor, nn

from fishermask_fast import (
    FisherMask,
    GradientFactors,
    fisher_diagonal,
    masked_gradients,
    select_batch,
)
from fishermask_fast.arithmetic import full_float32
from fishermask_fast.ops import selection as ops

pytestmark = pytest.mark.cuda

# Of each tool; it slows the kernels down by tens of times.
SANITIZER_SECONDS = 50

CASES = [
    pytest.param(name, sample, id=f"{name}-{sample.label}")
    for name, samples in SAMPLES.items()
    if name not in CPU_ONLY
    for sample in samples()
]


def to_card(value: Any, device: str = "cuda") -> Any:
    return value.to(device) if isinstance(value, (Tensor, GradientFactors)) else value


def moved(problem: on_cpu.Problem, device: str = "cuda") -> on_cpu.Problem:
    return on_cpu.Problem(**{name: to_card(value, device) for name, value in vars(problem).items()})


def run(
    problem: on_cpu.Problem, **options: Any
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """What the op returned and the state that it left, on the CPU."""
    state = (problem.a.clone(), problem.b.clone(), problem.scores.clone())
    returned = ops.score_update(
        problem.factors,
        problem.index,
        problem.u,
        problem.w,
        problem.ranks,
        torch.zeros(len(problem.ranks), dtype=torch.float64, device=problem.a.device),
        *state,
        scale=problem.scale,
        **options,
    )
    first, second, third = (part.cpu() for part in returned)
    a, b, scores = (part.cpu() for part in state)
    return (first, second, third), (a, b, scores)


def check(
    problem: on_cpu.Problem,
    assert_close: Callable[..., None],
    dtype: torch.dtype = torch.float64,
    device: str = "cuda",
) -> None:
    expected, history = problem.expected()
    (best, best_index, first_index), state = run(
        moved(problem, device), float64_products=dtype == torch.float64
    )
    k, n = problem.factors.n_columns, len(problem.factors)
    for found, wanted in zip(state, expected, strict=True):
        assert_close(found, wanted, k=k, condition=10, dtype=dtype)
    if len(problem.index) == 0:
        assert (best == -torch.inf).all() and (best_index == n).all() and (first_index == n).all()
        return
    assert_close(best, history[:-1].amax(1), k=k, condition=10, dtype=dtype)
    assert torch.equal(best_index, problem.index[history[:-1].argmax(1)])
    assert first_index.tolist() == [int(problem.index.min())] * len(problem.ranks)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_op_equals_its_definition(name: str, sample: Sample) -> None:
    check_sample(
        name,
        replace(
            sample,
            arguments=tuple(map(to_card, sample.arguments)),
            returned=tuple(map(to_card, sample.returned)),
            changed={at: to_card(value) for at, value in sample.changed.items()},
        ),
    )


@pytest.mark.parametrize(("name", "sample"), CASES[::5])
def test_opcheck(name: str, sample: Sample) -> None:
    torch.library.opcheck(operator(name), tuple(map(to_card, sample.fresh_arguments())))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sizes", on_cpu.WIDE.values(), ids=on_cpu.WIDE.keys())
def test_score_update(
    sizes: dict[str, Any],
    head: str,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    check(on_cpu.make_problem(generator, head=head, **sizes), assert_close)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_factors(
    head: str, dtype: torch.dtype, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    problem = on_cpu.make_problem(generator, n=90, r=5, m=31, head=head, dtype=torch.float32)
    check(problem, assert_close, dtype)


@pytest.mark.parametrize("n", [1, 2, 31, 33, 129, 5000])
def test_any_number_of_candidates(
    n: int, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    problem = on_cpu.make_problem(generator, n=n)
    few = torch.arange(n - 1, n)
    for index in (problem.index, torch.arange(n), few, torch.arange(n)[:0]):
        check(replace(problem, index=index), assert_close)


@pytest.mark.parametrize("ranks", [[3], [1, 3, 2], [0, 2, 0, 3], [3] * 32, [3] * 70])
def test_any_number_of_updates(
    ranks: list[int], generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    check(on_cpu.make_problem(generator, ranks=ranks, head="part"), assert_close)


def test_strides(generator: torch.Generator, assert_close: Callable[..., None]) -> None:
    problem = on_cpu.make_problem(generator, head="part")
    v = problem.factors
    assert v.coupling is not None and v.hidden is not None

    def crossed(tensor: Tensor) -> Tensor:
        return tensor.cuda().mT.contiguous().mT

    card = moved(problem)
    factors = GradientFactors(
        crossed(v.middle), crossed(v.coupling), crossed(v.hidden), to_card(v.head_index)
    )
    strided = replace(card, factors=factors, u=crossed(problem.u), w=crossed(problem.w))
    for found, wanted in zip(run(strided)[1], run(card)[1], strict=True):
        assert torch.equal(found, wanted)


def test_tf32_and_autocast_change_nothing(generator: torch.Generator) -> None:
    problem = moved(on_cpu.make_problem(generator, n=300, r=9, m=200, dtype=torch.float32))
    plain = run(problem, float64_products=False)[1]
    pool = to_card(random_factors(generator, n=300, r=3, m=60, dtype=torch.float32))
    expected = select_batch(pool, 40)
    kind = torch.backends.cuda.matmul
    before = kind.fp32_precision
    try:
        kind.fp32_precision = "tf32"
        with full_float32():
            found = run(problem, float64_products=False)[1]
        selection = select_batch(pool, 40)
        assert kind.fp32_precision == "tf32"
    finally:
        kind.fp32_precision = before
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other)
    assert picks(selection) == picks(expected)
    assert torch.equal(selection.scores, expected.scores)
    with torch.autocast("cuda"):
        found = run(problem, float64_products=False)[1]
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other)


def test_ops_run_on_the_current_stream(generator: torch.Generator) -> None:
    problem = on_cpu.make_problem(generator, n=2000, r=9, m=120)
    expected = run(moved(problem))[1]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # What comes before in this stream must be done first; another stream would not wait.
        torch.cuda._sleep(10_000_000)
        found = run(moved(problem))[1]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_two_devices_do_not_mix(
    generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    problem = on_cpu.make_problem(generator, n=100)
    for device in ("cuda:1", "cuda:0"):
        check(problem, assert_close, device=device)
        assert torch.cuda.current_device() == 0
    mixed = replace(moved(problem), index=problem.index.to("cuda:1"))
    with pytest.raises(ValueError, match="index is on cuda:1; expected the factors' cuda:0"):
        run(mixed)
    factors = random_factors(generator, n=200, dtype=torch.float32)
    expected = picks(select_batch(factors, 40))
    assert picks(select_batch(factors.to("cuda:1"), 40)) == expected


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("case", range(3))
def test_oracle(case: int, precision: str) -> None:
    expected = oracle().cases[case]
    arguments = {name: to_card(value) for name, value in oracle_arguments(expected).items()}
    found = select_batch(to_card(oracle().pool), **arguments, precision=precision)
    assert found.indices.device.type == "cpu"
    assert picks(found) == expected["indices"]


@pytest.mark.parametrize("block_size", [1, 5, None])
@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_adversarial_pools(kind: str, block_size: int | None, generator: torch.Generator) -> None:
    pool = ADVERSARIAL[kind](generator)
    n_select = min(len(pool), 25)
    fisher = random_fisher(generator, pool.shape[2])
    expected = select_batch(pool.double(), n_select, fisher, precision="float64")
    found = select_batch(pool.cuda(), n_select, fisher.cuda(), block_size=block_size)
    assert picks(found) == picks(expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_selection(head: str, backward_steps: int, generator: torch.Generator) -> None:
    factors = random_factors(generator, n=230, r=4, m=9, c=5, d=6, head=head, dtype=torch.float32)
    fisher = random_fisher(generator, factors.n_columns)
    options: dict[str, Any] = {"lamb": 0.02, "backward_steps": backward_steps}
    expected = select_batch(factors, 80, fisher, **options, precision="float64")
    found = select_batch(factors.to("cuda"), 80, fisher.cuda(), **options)
    assert picks(found) == picks(expected)
    assert found.dropped.tolist() == expected.dropped.tolist()
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)


def test_half_gradients(generator: torch.Generator) -> None:
    factors = random_factors(generator, n=100, r=3, m=9).to(dtype=torch.bfloat16)
    assert picks(select_batch(factors.to("cuda"), 30)) == picks(select_batch(factors, 30))


@pytest.fixture
def network() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    yield (
        nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 20, 3, groups=2),
            nn.ReLU(),
            nn.Flatten(2),
            nn.Linear(36, 9),
            nn.Flatten(),
            nn.Linear(180, 5),
        )
        .double()
        .eval()
    )


def test_gradients_of_a_network(network: nn.Module, assert_close: Callable[..., None]) -> None:
    inputs = torch.randn(30, 3, 16, 16, dtype=torch.float64)
    scores = fisher_diagonal(network, inputs, n_samples=30)
    masks = [FisherMask.from_scores(scores, share, "per_layer", head="8") for share in (0.04, 0.9)]
    expected = [masked_gradients(network, inputs, mask).dense() for mask in masks]
    network.cuda()
    found = fisher_diagonal(network, inputs.cuda(), n_samples=30)
    for name, values in scores.items():
        assert_close(found[name].cpu(), values, k=1000)
    for mask, wanted in zip(masks, expected, strict=True):
        assert_close(masked_gradients(network, inputs.cuda(), mask).dense().cpu(), wanted, k=1000)


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
@pytest.mark.skipif("FISHERMASK_SANITIZED" in os.environ, reason="runs under it already")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool: str) -> None:
    chosen = "test_op_equals_its_definition or test_score_update or test_selection"
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    try:
        done = subprocess.run(
            [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, __file__],
            env=os.environ | {"FISHERMASK_SANITIZED": "1"},
            capture_output=True,
            text=True,
            timeout=SANITIZER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{tool} was not done after {SANITIZER_SECONDS} s")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
