"""The Fisher diagonal over all parameters: torch.func, ours, and the bound of full backward passes.

    pytest benchmarks/bench_fisher_diagonal.py --benchmark-columns=min,rounds

`published` is the published code's: one backward pass a sample and class, squared and summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradient_problem import (
    BATCH,
    N_CLASSES,
    Problem,
    forward_and_passes,
    make_problem,
    measure,
    torch_func_jacobians,
)
from torch import Tensor

from fishermask_fast.gradients.diagonal import fisher_diagonal


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem()


def published_diagonal(problem: Problem, n: int) -> list[Tensor]:
    parameters = list(problem.model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for image in problem.images[:n]:
        log_probabilities = problem.model(image[None])[0].log_softmax(0)
        for c in range(N_CLASSES):
            gradients = torch.autograd.grad(log_probabilities[c], parameters, retain_graph=True)
            for sums, gradient in zip(total, gradients, strict=True):
                sums += log_probabilities[c].exp().detach() * gradient.square() / n
    return total


def torch_func_diagonal(problem: Problem, n: int) -> dict[str, Tensor]:
    with torch.no_grad():
        p = problem.model(problem.images[:n]).softmax(1)
    jacobians = torch_func_jacobians(problem, n)
    return {name: torch.einsum("nc,nc...->...", p, j.square()) / n for name, j in jacobians.items()}


WAYS: dict[str, tuple[int, Callable[[Problem, int], Any]]] = {
    "published": (4, published_diagonal),
    "torch.func": (4, torch_func_diagonal),
    "ours": (BATCH, lambda p, n: fisher_diagonal(p.model, p.images, n_samples=n, batch_size=n)),
    "bound": (BATCH, lambda p, n: forward_and_passes(p, N_CLASSES, full=True)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.benchmark(group="Fisher diagonal, ResNet-18 16-32-64-128")
def test_fisher_diagonal(benchmark: Any, problem: Problem, way: str) -> None:
    n, work = WAYS[way]
    measure(benchmark, n, lambda: work(problem, n))


def test_ways_agree(problem: Problem) -> None:
    """What the timings compare is the same numbers."""
    small = Problem(problem.model, problem.images[:4], problem.mask)
    ours = fisher_diagonal(small.model, small.images)
    others = torch_func_diagonal(small, 4)
    published = dict(zip(ours, published_diagonal(small, 4), strict=True))
    for name, values in ours.items():
        for other in (others, published):
            assert (values - other[name]).abs().max() < 1e-4 * other[name].abs().max()
