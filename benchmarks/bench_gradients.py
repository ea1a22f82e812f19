"""Masked gradients: the published way, torch.func, ours, and the bound of forward and passes.

    pytest benchmarks/bench_gradients.py --benchmark-columns=min,rounds --benchmark-group-by=group

The last group shows where single dot products stop paying for the entries of one convolution:
`ours` chooses by counting, tile by tile.
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
    published_rows,
    torch_func_jacobians,
)

from fishermask_fast.gradients import weight_products
from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.models.networks import resnet18_small
from fishermask_fast.ops import weights as weight_ops


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem()


WAYS: dict[str, tuple[int, Callable[[Problem, int], Any]]] = {
    "published": (1, published_rows),
    "torch.func": (4, torch_func_jacobians),
    "ours": (BATCH, lambda p, n: masked_gradients(p.model, p.images, p.mask, batch_size=n)),
    "ours, C rows": (
        BATCH,
        lambda p, n: masked_gradients(p.model, p.images, p.mask, batch_size=n, rank=N_CLASSES),
    ),
    "bound": (BATCH, lambda p, n: forward_and_passes(p, N_CLASSES, full=False)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.benchmark(group="masked gradients, ResNet-18 16-32-64-128")
def test_masked_gradients(benchmark: Any, problem: Problem, way: str) -> None:
    n, work = WAYS[way]
    measure(benchmark, n, lambda: work(problem, n))


def test_ours_equals_the_published_rows(problem: Problem) -> None:
    """What the timings compare is the same numbers."""
    ours = masked_gradients(problem.model, problem.images[:2], problem.mask, weighting="none")
    published = published_rows(problem, 2)
    error = (ours.dense() - published).abs().max() / published.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("n_classes", [10, 100, 1000])
@pytest.mark.benchmark(group="ten rows of many classes, the head left out of the mask")
def test_many_classes(benchmark: Any, n_classes: int) -> None:
    """The cost is that of ten passes, however many classes there are."""
    torch.manual_seed(0)
    model = resnet18_small(n_classes, 3).eval()
    images = torch.randn(BATCH, 3, 32, 32)
    scores = fisher_diagonal(model, images, n_samples=8, expectation="sampled")
    mask = FisherMask.from_scores(scores, 0.002, keep_head=False)
    measure(
        benchmark, BATCH, lambda: masked_gradients(model, images, mask, rank=10, batch_size=BATCH)
    )


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("way", ["gathered dots", "whole product", "ours"])
@pytest.mark.benchmark(group="entries of a 3 x 3 convolution of 64 channels, 8 x 8")
def test_crossover(benchmark: Any, way: str, share: float) -> None:
    conv = weight_products.Convolution((64, 64, 3, 3), (1, 1), (1, 1), 1)
    delta = torch.randn(BATCH, 64, 8, 8)
    a = weight_products.pad(torch.randn(BATCH, 64, 8, 8), (1, 1))
    size = 64 * 64 * 9
    index = torch.randperm(size)[: max(1, int(share * size))].sort().values
    pair = [1, 1]
    ways: dict[str, Callable[[], Any]] = {
        "gathered dots": lambda: weight_products.conv_masked_by_dots(conv, a, delta, index),
        "whole product": lambda: weight_products.conv_masked_by_product(conv, a, delta, index),
        "ours": lambda: weight_ops.masked_grad_conv2d(a, delta, index, [3, 3], pair, pair, 1),
    }
    measure(benchmark, BATCH, ways[way])
