"""The network, images and ways of computing that the benchmarks of gradients compare.

ResNet-18 of widths 16-32-64-128, 32 x 32 x 3 images, ten classes, a 0.2% global mask. All ways are
called once on their own number of samples, since the slow ones cannot do a batch in useful time;
compare `per_sample_ms` in the extra columns, and only within one run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, jacrev, vmap

from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.models.networks import resnet18_small

N_CLASSES = 10
BATCH = 64


@dataclass(frozen=True)
class Problem:
    """A network in eval mode, a batch of images and a mask."""

    model: nn.Module
    images: Tensor
    mask: FisherMask


def make_problem() -> Problem:
    torch.manual_seed(0)
    model = resnet18_small(N_CLASSES, 3).eval()
    images = torch.randn(BATCH, 3, 32, 32)
    mask = FisherMask.from_scores(fisher_diagonal(model, images, n_samples=16), 0.002)
    return Problem(model, images, mask)


def published_rows(problem: Problem, n: int) -> Tensor:
    """As the published code has it, grad log p_c of the first n samples, (n, C, k).

    One backward pass a sample and class, of all parameters and through the whole batch's graph,
    each copied to the host before the mask is applied.
    """
    parameters = [p for p in problem.model.parameters() if p.requires_grad]
    names = [name for name, p in problem.model.named_parameters() if p.requires_grad]
    log_probabilities = problem.model(problem.images).log_softmax(1)
    rows = []
    for i in range(n):
        for c in range(N_CLASSES):
            gradients = torch.autograd.grad(log_probabilities[i, c], parameters, retain_graph=True)
            whole = {name: g.flatten().cpu() for name, g in zip(names, gradients, strict=True)}
            rows.append(torch.cat([whole[name][at] for name, at in problem.mask.indices.items()]))
    return torch.stack(rows).view(n, N_CLASSES, -1)


def torch_func_jacobians(problem: Problem, n: int) -> dict[str, Tensor]:
    """vmap(jacrev) over all parameters."""
    parameters = {name: p.detach() for name, p in problem.model.named_parameters()}

    def log_probabilities(theta: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(problem.model, theta, (x.unsqueeze(0),))[0]
        return logits.log_softmax(0)

    found: dict[str, Tensor] = vmap(jacrev(log_probabilities), (None, 0))(
        parameters, problem.images[:n]
    )
    return found


def forward_and_passes(problem: Problem, r: int, full: bool) -> None:
    """One forward pass and r backward passes, to the first layer's output or of everything."""
    parameters = list(problem.model.parameters())
    edges: list[GradientEdge] = []

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        edges.append(get_gradient_edge(output))

    first = next(m for m in problem.model.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_hook(note)
    for p in parameters:
        p.requires_grad_(full or p is first.weight)
    try:
        logits = problem.model(problem.images)
        wanted = parameters if full else edges
        for _ in range(r):
            torch.autograd.grad(logits, wanted, torch.ones_like(logits), retain_graph=True)
    finally:
        handle.remove()
        for p in parameters:
            p.requires_grad_(True)


def measure(benchmark: object, n: int, work: Callable[[], object]) -> None:
    """Three rounds after a warm-up, and the time of one sample from the fastest."""
    benchmark.pedantic(work, rounds=3, warmup_rounds=1, iterations=1)  # type: ignore[attr-defined]
    best = benchmark.stats.stats.min  # type: ignore[attr-defined]
    benchmark.extra_info["per_sample_ms"] = round(1e3 * best / n, 4)  # type: ignore[attr-defined]
    benchmark.extra_info["threads"] = torch.get_num_threads()  # type: ignore[attr-defined]
