"""Small inputs for every compiled op, with what the pure torch definition makes of them.

An op that is registered without an entry in SAMPLES fails ``test_every_op_has_samples``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fishermask_fast import reference
from fishermask_fast.factors import GradientFactors

NAMESPACE = "fishermask_fast"


@dataclass(frozen=True)
class Sample:
    """Arguments of one call, what it must return, and what it must leave in changed arguments."""

    label: str
    arguments: tuple[Any, ...]
    returned: tuple[Tensor, ...]
    changed: dict[int, Tensor]
    bound: float

    def fresh_arguments(self) -> tuple[Any, ...]:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in self.arguments)


def registered_ops() -> list[str]:
    prefix = f"{NAMESPACE}::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def operator(name: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def check_op(name: str) -> None:
    """Raises AssertionError where an op and its definition part."""
    samples = list(SAMPLES[name]())
    assert samples
    for sample in samples:
        check_sample(name, sample)


def check_sample(name: str, sample: Sample) -> None:
    arguments = sample.fresh_arguments()
    result = operator(name)(*arguments)
    returned = result if isinstance(result, tuple) else (result,)
    pairs = list(zip(returned, sample.returned, strict=True))
    pairs += [(arguments[at], expected) for at, expected in sample.changed.items()]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=sample.bound, atol=sample.bound)


def score_update_samples() -> Iterator[Sample]:
    for label, dtype, head in [
        ("dense", torch.float64, None),
        ("whole head", torch.float64, "whole"),
        ("part of the head", torch.float64, "part"),
        ("float32 factors", torch.float32, "part"),
        ("float32 products", torch.float32, "part"),
        ("no update", torch.float64, "whole"),
        ("no candidate", torch.float64, "part"),
    ]:
        yield score_update_sample(label, dtype, head)


def score_update_sample(label: str, dtype: torch.dtype, head: str | None) -> Sample:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, r, m, c, d = 19, 3, 5, 4, 3
    float64_products = label != "float32 products"
    ranks = [] if label == "no update" else [3, 2]
    coupling, hidden, head_index = None, None, None
    if head is not None:
        coupling, hidden = random(n, r, c).to(dtype), random(n, d).to(dtype)
        head_index = torch.tensor([0, 4, 5, 11]) if head == "part" else None
    factors = GradientFactors(random(n, r, m).to(dtype), coupling, hidden, head_index)
    k, scale = factors.n_columns, 0.7
    # Updates this small keep A positive definite, as updates of real picks do.
    u, w = 0.03 * random(k, sum(ranks)), random(k, sum(ranks))
    root = random(n, r, r)
    a = torch.eye(r, dtype=torch.float64) + random(n, r, r).tril(-1).mul(0.1).square()
    a = (a + a.mT) / 2 + torch.eye(r, dtype=torch.float64)
    b = root @ root.mT
    n_chosen = 0 if label == "no candidate" else 17
    index = torch.randperm(n, generator=generator)[:n_chosen]

    pairs = list(zip(u.split(ranks, 1), w.split(ranks, 1), strict=True)) if ranks else []
    v = scale * factors.to(dtype=torch.float64).dense()[index]
    new_a, new_b, history = reference.score_update(v, pairs, a[index], b[index])
    thresholds = torch.tensor([1.5, 3.0], dtype=torch.float64)[: len(ranks)]
    scores = torch.full((n,), -1.0, dtype=torch.float64)
    scores[index] = history[0]

    rows, columns = torch.tril_indices(r, r)
    packed_a, packed_b = a[:, rows, columns], b[:, rows, columns]
    expected_a, expected_b, expected_scores = packed_a.clone(), packed_b.clone(), scores.clone()
    expected_a[index] = new_a[:, rows, columns]
    expected_b[index] = new_b[:, rows, columns]
    expected_scores[index] = history[-1]

    best = torch.full((len(ranks),), -torch.inf, dtype=torch.float64)
    best_index = torch.full((len(ranks),), n)
    first_index = torch.full((len(ranks),), n)
    for t in range(len(ranks) if n_chosen else 0):
        best[t] = history[t].max()
        best_index[t] = index[history[t].argmax()]
        reaching = index[history[t] >= thresholds[t]]
        first_index[t] = reaching.min() if len(reaching) else n

    parts = (factors.middle, coupling, hidden, head_index)
    numbers = (ranks, scale, thresholds, float64_products)
    return Sample(
        label,
        (*parts, index, u, w, *numbers, packed_a, packed_b, scores),
        (best, best_index, first_index),
        {11: expected_a, 12: expected_b, 13: expected_scores},
        100 * k * torch.finfo(torch.float64 if float64_products else torch.float32).eps,
    )


SAMPLES: dict[str, Callable[[], Iterator[Sample]]] = {"score_update": score_update_samples}
