"""Pools of copies, exact or nearly: the picks of one at a time, for about as much work."""

from __future__ import annotations

import pytest
import torch
from pools import oracle, perturbed, picks
from torch import Tensor

from fishermask_fast import GradientFactors, select_batch
from fishermask_fast.engine import best

N, K = 1500, 40


def real(n: int, generator: torch.Generator) -> GradientFactors:
    full = oracle().pool
    part = torch.arange(0, 1280, 11)
    pool = GradientFactors(full.middle[..., :30], full.coupling, full.hidden, part)
    return perturbed(pool, n, generator)


def copies(noise: float, generator: torch.Generator) -> GradientFactors:
    """20 samples, N / 20 of each in no order, each number changed by about `noise`."""
    where = torch.randperm(N, generator=generator) % 20
    drawn = real(20, generator)[where]

    def shake(part: Tensor) -> Tensor:
        change = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        return (part.double() * (1 + noise * change)).to(part.dtype)

    assert drawn.coupling is not None and drawn.hidden is not None
    middle, coupling, hidden = map(shake, (drawn.middle, drawn.coupling, drawn.hidden))
    return GradientFactors(middle, coupling, hidden, drawn.head_index)


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-6, 1e-3])
def test_copies_take_about_the_passes_of_distinct_samples(
    noise: float, generator: torch.Generator
) -> None:
    pool = copies(noise, generator)
    found = select_batch(pool, K)
    assert picks(found) == picks(select_batch(pool, K, block_size=1, precision="float64"))
    # Where too few of a kind lead, each pick takes a pass and more; all of those that running
    # scores cannot tell apart have to.
    assert found.passes <= (0.8 if 0.0 < noise < 1e-5 else 0.7) * K


def grades(kinds: Tensor) -> Tensor:
    """Samples of a kind that are alike, and none near another."""
    apart = torch.arange(len(kinds))
    return torch.stack([kinds, apart, apart], 1)


def test_leaders_are_of_several_kinds(generator: torch.Generator) -> None:
    kinds = torch.arange(400) % 10
    scores = 10.0 - kinds.double()
    leaders = best(scores, grades(kinds), 100)
    assert leaders.tolist() == sorted(leaders.tolist())
    assert torch.bincount(kinds[leaders], minlength=7).tolist()[:6] == [16] * 6
    for kind in range(6):
        assert leaders[kinds[leaders] == kind].tolist() == list(range(kind, 160, 10))


@pytest.mark.parametrize("among", [1, 60, 150, 1000])
def test_leaders_of_the_best_alone(among: int, generator: torch.Generator) -> None:
    """As a GPU asks for them: those of the pool's best, of several kinds among these."""
    kinds = grades(torch.randint(5, (400,), generator=generator))
    scores = torch.rand(400, generator=generator, dtype=torch.float64)
    top = scores.topk(max(min(among, 400), 50)).indices.sort().values
    found = best(scores, kinds, 50, among)
    assert torch.equal(found, top[best(scores[top], kinds[top], 50)])
    if among >= 400:
        assert torch.equal(found, best(scores, kinds, 50))


def test_leaders_of_few_kinds_are_filled_up_but_never_with_what_comes_last() -> None:
    scores = torch.arange(100, 0, -1, dtype=torch.float64)
    scores[50:] = -torch.inf
    kinds = torch.zeros(100, dtype=torch.int64)
    kinds[60:] = 1
    assert best(scores, grades(kinds), 50).tolist() == list(range(50))
    assert len(best(scores, grades(kinds), 100)) == 100
    assert best(scores, grades(kinds), 0).tolist() == []
