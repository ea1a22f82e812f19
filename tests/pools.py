"""Pools to select from: the oracle's real gradients, random factors, and pools full of ties."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fishermask_fast import GradientFactors, Selection, reference

PARTS = ("middle", "coupling", "hidden", "head_index")
DATA = Path(__file__).parent / "data"
HEADS = ("none", "whole", "part", "biased", "only")
TIE = 1e-9


@dataclass(frozen=True)
class Oracle:
    """Real gradients and the picks of the published formula from them; see data/README.md."""

    pool: GradientFactors  # the unlabeled samples
    fisher: Tensor
    labeled_fisher: Tensor
    n_labeled: int
    cases: list[dict[str, Any]]


@cache
def oracle(dtype: torch.dtype = torch.float32) -> Oracle:
    """The oracle's float32 arrays, and the factors made from them in `dtype`."""
    arrays = np.load(DATA / "fmnist_resnet18.npz")
    probabilities = torch.from_numpy(arrays["probs"]).to(dtype)
    n_classes = probabilities.shape[1]
    # L_x^T = diag(sqrt p) (I - 1 p^T)
    coupling = probabilities.sqrt()[:, :, None] * (
        torch.eye(n_classes, dtype=dtype) - probabilities[:, None, :]
    )
    middle, hidden = (torch.from_numpy(arrays[name]).to(dtype) for name in ("middle", "hidden"))
    factors = GradientFactors(middle, coupling, hidden)
    n_labeled = int(arrays["n_labeled"])
    return Oracle(
        factors[n_labeled:],
        factors.fisher(),
        factors[:n_labeled].fisher(),
        n_labeled,
        json.loads((DATA / "fmnist_resnet18.expected.json").read_text()),
    )


def oracle_arguments(case: dict[str, Any]) -> dict[str, Any]:
    """What a selection from the oracle's pool is asked for in one of its cases."""
    real = oracle()
    return {
        "n_select": case["n_select"],
        "fisher": real.fisher,
        "labeled_fisher": real.labeled_fisher,
        "lamb": case["lamb"],
        "n_labeled": real.n_labeled,
        "backward_steps": case["backward_steps"],
    }


def perturbed(factors: GradientFactors, n: int, generator: torch.Generator) -> GradientFactors:
    """n samples drawn from `factors`, every number of each changed by about a tenth."""
    drawn = factors[torch.randint(len(factors), (n,), generator=generator)]

    def shake(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        return part * (1 + 0.1 * torch.randn(part.shape, generator=generator)).to(part.dtype)

    middle = shake(drawn.middle)
    assert middle is not None
    return GradientFactors(middle, shake(drawn.coupling), shake(drawn.hidden), drawn.head_index)


def random_factors(
    generator: torch.Generator,
    n: int = 40,
    r: int = 3,
    m: int = 5,
    c: int = 3,
    d: int = 4,
    head: str = "whole",
    dtype: torch.dtype = torch.float64,
) -> GradientFactors:
    """Independent normal entries; `head` is one of HEADS. "only" has nothing outside the head."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    middle = normal(n, r, 0 if head == "only" else m)
    if head == "none":
        return GradientFactors(middle)
    hidden = normal(n, d)
    if head == "biased":
        hidden[:, -1] = 1.0
    index = None
    if head == "part":
        index = torch.randperm(c * d, generator=generator)[: c * d // 2 + 1].sort().values
    return GradientFactors(middle, normal(n, r, c), hidden, index)


def random_fisher(generator: torch.Generator, k: int) -> Tensor:
    root = torch.randn(k, 2 * k, generator=generator, dtype=torch.float64)
    return root @ root.T / (2 * k)


def greedy(
    gradients: Tensor,  # (N, r, k) float64
    n_select: int,
    fisher: Tensor | None = None,
    *,
    lamb: float = 1.0,
) -> list[int]:
    """The published selection, where the first of all scores within TIE of the best wins."""
    v = gradients
    if fisher is None:
        fisher = torch.einsum("nrk,nrl->kl", v, v) / len(v)
    precision = reference.initial_precision(fisher, None, n_select, lamb, 0)
    picked: list[int] = []
    for _ in range(n_select):
        score = reference.scores(v, precision, fisher)
        score[picked] = -torch.inf
        best = score.max()
        picked.append(int((score >= best - TIE * best.abs()).nonzero()[0]))
        precision = reference.change_precision(precision, v[picked[-1]])
    return picked


def picks(selection: Selection) -> list[int]:
    found: list[int] = selection.indices.tolist()
    return found


def all_equal(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 3, 7, generator=generator).expand(50, 3, 7)


def all_zero(generator: torch.Generator) -> Tensor:
    return torch.zeros(50, 3, 7)


def half_zero(generator: torch.Generator) -> Tensor:
    pool = torch.randn(12, 3, 7, generator=generator)
    return torch.cat([torch.zeros(20, 3, 7), pool, torch.zeros(20, 3, 7)])


def duplicates(generator: torch.Generator) -> Tensor:
    pool = torch.randn(15, 3, 7, generator=generator)
    return pool[torch.randperm(60, generator=generator) % 15]


def many_duplicates(generator: torch.Generator) -> Tensor:
    """More copies of each than float32 winners are compared one by one."""
    pool = torch.randn(4, 3, 7, generator=generator)
    return pool[torch.randperm(160, generator=generator) % 4]


def dominant(generator: torch.Generator) -> Tensor:
    pool = torch.randn(50, 3, 7, generator=generator)
    pool[31] *= 1e4
    return pool


def near_duplicates(generator: torch.Generator) -> Tensor:
    """Copies that differ by less than float32 products can tell, and more than a tie."""
    pool = duplicates(generator)
    return pool * (1 + 3e-6 * torch.randn(60, 1, 1, generator=generator))


def rank_deficient(generator: torch.Generator) -> Tensor:
    pool = torch.randn(50, 3, 7, generator=generator)
    pool[:, 2] = pool[:, 0]
    pool[::3, 1] = 0.0
    return pool


def unequal_sizes(generator: torch.Generator) -> Tensor:
    """Sizes over eight orders of magnitude."""
    size = 10.0 ** torch.linspace(-6, 2, 50)[torch.randperm(50, generator=generator)]
    return torch.randn(50, 3, 7, generator=generator) * size[:, None, None]


def fewer_than_a_block(generator: torch.Generator) -> Tensor:
    return torch.randn(6, 3, 7, generator=generator)


ADVERSARIAL: dict[str, Callable[[torch.Generator], Tensor]] = {
    "all equal": all_equal,
    "all zero": all_zero,
    "half zero": half_zero,
    "duplicates": duplicates,
    "many duplicates": many_duplicates,
    "near duplicates": near_duplicates,
    "one dominant": dominant,
    "rank deficient": rank_deficient,
    "unequal sizes": unequal_sizes,
    "fewer than a block": fewer_than_a_block,
}


@dataclass(frozen=True)
class Adversarial:
    """A pool full of ties or of sizes far apart, and the picks of the published formula from it."""

    kind: str
    pool: Tensor  # (N, r, k)
    n_select: int
    fisher: Tensor
    expected: dict[float, list[int]]  # lamb -> indices


@cache
def adversarial_pool(kind: str, dtype: torch.dtype) -> Adversarial:
    generator = torch.Generator().manual_seed(0)
    pool = ADVERSARIAL[kind](generator).to(dtype)
    n_select = min(len(pool), 25)
    fisher = random_fisher(generator, pool.shape[2])
    expected = {lamb: greedy(pool.double(), n_select, fisher, lamb=lamb) for lamb in (1.0, 0.01)}
    return Adversarial(kind, pool, n_select, fisher, expected)


def parts_of(factors: GradientFactors) -> dict[str, Tensor]:
    return {name: part for name in PARTS if (part := getattr(factors, name)) is not None}


def assert_same_course(found: Selection, expected: Selection) -> None:
    """The same picks and removals, and scores and objective to what rounding leaves."""
    assert picks(found) == picks(expected)
    assert found.dropped.tolist() == expected.dropped.tolist()
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-6, atol=1e-9)


def assert_same(found: GradientFactors, expected: GradientFactors) -> None:
    assert parts_of(found).keys() == parts_of(expected).keys()
    for name, part in parts_of(expected).items():
        assert getattr(found, name).dtype == part.dtype
        assert torch.equal(getattr(found, name), part)
