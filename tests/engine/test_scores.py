"""The scores of all candidates along a selection, against the formula taken anew at every pick."""

from __future__ import annotations

import pytest
import torch
from conftest import relative_error, tolerance
from pools import HEADS, random_factors, random_fisher

from fishermask_fast import reference, select_batch
from fishermask_fast.engine.scores import scores_along


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("n_labeled", [0, 20])
def test_equals_the_formula(head: str, n_labeled: int, generator: torch.Generator) -> None:
    factors = random_factors(generator, head=head)
    k = factors.n_columns
    fisher = random_fisher(generator, k)
    labeled = random_fisher(generator, k) if n_labeled else None
    selection = select_batch(factors, 6, fisher, labeled, lamb=0.5, n_labeled=n_labeled)
    picks = selection.indices.tolist()
    course = list(scores_along(factors, picks, fisher, labeled, lamb=0.5, n_labeled=n_labeled))
    assert len(course) == 7

    v = factors.dense() * (6 / (6 + n_labeled)) ** 0.5
    precision = reference.initial_precision(fisher, labeled, 6, 0.5, n_labeled)
    for at, scores in enumerate(course):
        expected = reference.scores(v, precision, fisher)
        assert relative_error(scores, expected) < tolerance(torch.float64, k, condition=100.0)
        if at < 6:
            assert float(scores[picks[at]]) == pytest.approx(float(selection.scores[at]), rel=1e-9)
            precision = reference.change_precision(precision, v[picks[at]])
