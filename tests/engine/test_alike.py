"""Scores of near copies by the slope at one of them: never further off than is said."""

from __future__ import annotations

import pytest
import torch
from pools import TIE, random_factors
from torch import Tensor

from fishermask_fast import GradientFactors
from fishermask_fast.engine.alike import Base, may_win


def exact(v: Tensor, inverse: Tensor, double: Tensor) -> Tensor:
    """tr((I + V M^-1 V^T)^-1 V G V^T) of every sample."""
    eye = torch.eye(v.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(eye + v @ inverse @ v.mT, v @ double @ v.mT)
    return solved.diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("indefinite", [False, True])
@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("lamb", [1.0, 1e-2])
def test_scores_are_off_by_no_more_than_said(
    noise: float, lamb: float, indefinite: bool, generator: torch.Generator
) -> None:
    pool = random_factors(generator, n=1, r=3)
    v = pool.dense()[0].expand(50, -1, -1)
    v = v * (1 + noise * torch.randn(v.shape, generator=generator, dtype=torch.float64))
    k = v.shape[2]
    fisher = random_factors(generator, n=30, r=3).fisher()
    if indefinite:
        fisher -= 0.3 * float(fisher.trace()) / k * torch.eye(k, dtype=torch.float64)
    inverse = torch.linalg.inv(fisher @ fisher + lamb * torch.eye(k, dtype=torch.float64))
    double = inverse @ fisher @ inverse
    rows = v[0]
    base = Base(rows, rows @ inverse, rows @ double, float(double.norm()), lamb)
    scores, rests = base.scores(GradientFactors(v / 2), 2.0)
    wanted = exact(v, inverse, double)
    assert bool(((scores - wanted).abs() <= rests + 1e-13 * wanted.abs().max()).all())
    if noise <= 1e-6 and lamb == 1.0:  # and it tells them apart
        assert float(rests.max()) <= 0.1 * float(scores.max() - scores.min())
    best = int(wanted.argmax())
    left = may_win(scores, rests, TIE).tolist()
    tied = wanted >= wanted[best] - TIE * wanted[best].abs()
    assert int(tied.nonzero()[0]) in left


def test_the_lowest_place_of_a_tie_stands_for_all() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 1.5], dtype=torch.float64)
    nothing = torch.zeros(5, dtype=torch.float64)
    assert may_win(scores, nothing, TIE).tolist() == [1]
    # Where nothing is known, all may win.
    unknown = torch.full_like(nothing, torch.inf)
    assert may_win(scores, unknown, TIE).tolist() == [0, 1, 2, 3, 4]
    some = nothing.clone()
    some[4] = 1.0
    assert may_win(scores, some, TIE).tolist() == [1, 2, 3, 4]
    some[0] = torch.inf
    assert may_win(scores, some, TIE).tolist() == [0, 1, 2, 3, 4]
