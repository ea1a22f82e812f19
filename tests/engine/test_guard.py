"""Scores that cannot be trusted: a set-up in the safe form, or a warning and K picks."""

from __future__ import annotations

import warnings

import pytest
import torch
from pools import picks, random_factors
from torch import Tensor

from fishermask_fast import GradientFactors, PrecisionWarning, reference, select_batch
from fishermask_fast.engine.candidates import LocalCandidates

N, K = 40, 6


def off(forms: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores that are a tenth too large for every other candidate."""
    a, b = forms
    b[::2] *= 1.1
    return a, b


def break_forms(patch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Spoil what set-ups make of the candidates; returns a list of the forms that were taken."""
    taken: list[str] = []
    for name in ("_forms", "_safe_forms"):
        whole = getattr(LocalCandidates, name)

        def spoiled(*args: object, name: str = name, whole: object = whole) -> object:
            taken.append(name)
            found = whole(*args)  # type: ignore[operator]
            return off(found) if name in names else found

        patch.setattr(LocalCandidates, name, spoiled)
    return taken


@pytest.mark.parametrize("block_size", [1, None])
def test_scores_that_disagree_lead_to_the_safe_form(
    block_size: int | None, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = random_factors(generator, n=N)
    fisher = pool.fisher()
    expected, _ = reference.select(pool.dense(), K, fisher, fisher, n_labeled=9)
    taken = break_forms(monkeypatch, "_forms")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = select_batch(pool, K, fisher, fisher, n_labeled=9, block_size=block_size)
    assert picks(found) == expected
    assert taken[:2] == ["_forms", "_safe_forms"]


def test_where_that_does_not_help_picks_come_with_a_warning(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = random_factors(generator, n=N)
    break_forms(monkeypatch, "_forms", "_safe_forms")
    with pytest.warns(PrecisionWarning, match="scale the gradients") as told:
        found = select_batch(pool, K)
    assert len(told) == 1
    assert len(set(picks(found))) == K


@pytest.mark.parametrize("backward_steps", [0, 1])
@pytest.mark.parametrize(("size", "lamb"), [(1e18, 1.0), (1e25, 1.0), (1e37, 1.0), (1.0, 1e-40)])
def test_gradients_beyond_what_float64_tells_apart(
    size: float, lamb: float, backward_steps: int, generator: torch.Generator
) -> None:
    pool = GradientFactors(torch.randn(N, 3, 8, generator=generator) * size)
    kept = pool.middle.clone()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = select_batch(pool, K, lamb=lamb, backward_steps=backward_steps)
    assert {each.category for each in told} <= {PrecisionWarning} and len(told) <= 1
    assert len(set(picks(found))) == K
    assert torch.equal(pool.middle, kept)


@pytest.mark.parametrize("ratio", [1e-16, 1e-18, 1e-30])
def test_rows_of_more_than_all_columns(ratio: float, generator: torch.Generator) -> None:
    """A_x is singular to float64: what is left is to say so."""
    v = torch.randn(20, 10, 8, generator=generator, dtype=torch.float64)
    pool = GradientFactors(v * torch.logspace(0, -4, 8).double())
    with pytest.warns(PrecisionWarning):
        found = select_batch(pool, 5, lamb=ratio)
    assert len(set(picks(found))) == 5


def test_a_matrix_that_is_not_positive_is_an_error(generator: torch.Generator) -> None:
    pool = random_factors(generator, n=N)
    fisher = pool.fisher()
    with pytest.raises(ValueError, match="positive definite"):
        select_batch(pool, K, fisher, -9 * fisher, n_labeled=9, lamb=1e-3)
