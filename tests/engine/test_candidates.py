"""The state of candidates through blocks that are cut, against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from pools import random_factors, random_fisher
from torch import Tensor

from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.state import Updates


def updates(generator: torch.Generator, n_picks: int, r: int, k: int) -> Updates:
    """Small ones, so that every A stays positive definite."""
    u, w = (
        0.01 * torch.randn(n_picks * r, k, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return Updates(u, w, [r] * n_picks)


def scores_after(v: Tensor, inverse: Tensor, double: Tensor, given: list[Updates]) -> Tensor:
    a = v @ inverse @ v.mT + torch.eye(v.shape[1], dtype=torch.float64)
    b = v @ double @ v.mT
    for part in given:
        p, q = v @ part.u.T, v @ part.w.T
        a, b = a - p @ p.mT, b - p @ q.mT - q @ p.mT
    return torch.linalg.solve(a, b).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_waiting_updates_are_taken_as_exactly_as_they_were_made(
    before: bool, after: bool, generator: torch.Generator
) -> None:
    factors = random_factors(generator, n=30, r=3, m=7, head="part", dtype=torch.float32)
    v, k = factors.to(dtype=torch.float64).dense(), factors.n_columns
    inverse = torch.eye(k, dtype=torch.float64)
    double = random_fisher(generator, k)
    pool = LocalCandidates(factors, 1.0, 1)
    pool.set_up(inverse, double, lamb=1.0, traces=True)
    first, wrong, second = (updates(generator, n, 3, k) for n in (2, 1, 3))

    leaders = pool.begin(5, ())
    pool.verify(wrong.after(first), [0.0] * 3, float64=before)
    assert not pool.cut(leaders, first, [int(leaders.index[0])], float64=before)
    leaders = pool.begin(6, ())
    tolerance = 1e-11 if before else 1e-5
    expected = scores_after(v, inverse, double, [first])
    torch.testing.assert_close(
        leaders.state.scores, expected[leaders.index], rtol=tolerance, atol=0
    )
    report = pool.verify(second, [0.0] * 3, float64=after)
    assert len(report.best) == 3

    others = torch.ones(30, dtype=torch.bool)
    others[leaders.index] = False
    others &= pool.free_scores(()).isfinite()
    tolerance = 1e-11 if before or after else 1e-5
    expected = scores_after(v, inverse, double, [first, second])
    torch.testing.assert_close(
        pool.free_scores(())[others], expected[others], rtol=tolerance, atol=0
    )


def test_many_waiting_updates_take_a_pass_of_their_own(generator: torch.Generator) -> None:
    factors = random_factors(generator, n=30, r=3, m=7, head="none")
    v, k = factors.dense(), factors.n_columns
    inverse, double = torch.eye(k, dtype=torch.float64), random_fisher(generator, k)
    pool = LocalCandidates(factors, 1.0, 1)
    pool.max_block = 4
    pool.set_up(inverse, double, lamb=1.0, traces=True)
    given = [updates(generator, 2, 3, k) for _ in range(2)]
    passed = []
    for part in given:
        leaders = pool.begin(5, ())
        pool.verify(updates(generator, 1, 3, k).after(part), [0.0] * 3, float64=True)
        passed.append(pool.cut(leaders, part, [], float64=True))
    assert passed == [False, True]
    expected = scores_after(v, inverse, double, given)
    torch.testing.assert_close(pool.free_scores(()), expected, rtol=1e-11, atol=0)
