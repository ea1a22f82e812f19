"""Gradients of every size against lamb: picks, scores and objective are those of 60 digits.

Scores are about |V|^2 |F| / lamb^2: with F = mean V^T V, gradients s times larger give scores s^4
times larger, which float64 holds whole from s = 1e-70 up. Their rounding error grows with the root
of |V|^2 / lamb, the condition of M that picks make: it passes what scores are told apart by where
V is some 1e9 and lamb 1, and is said long before it costs a pick.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import digits
import pytest
import torch
from pools import TIE, picks
from torch import Tensor

from fishermask_fast import PrecisionWarning, Selection, select_batch

LABELS = [False, True]


@dataclass
class Case:
    """A pool, what digits find, and what we do.

    Attributes:
        exact: by 60 digits.
        found: by us.
        told: the warnings.
    """

    exact: digits.Exact
    found: Selection
    told: list[str]

    @property
    def clear(self) -> bool:
        """Whether no step is a tie."""
        return min(self.exact.gaps) > 2 * TIE

    @property
    def right(self) -> bool:
        dropped = self.exact.steps[self.exact.n_forward :]
        return picks(self.found) == self.exact.kept and self.found.dropped.tolist() == dropped

    @property
    def objective_error(self) -> float:
        """The largest relative error of the objective's course."""
        expected = torch.tensor([self.exact.objective, *self.exact.left], dtype=torch.float64)
        return float((self.found.objective / expected - 1).abs().max())


def pool(seed: int) -> Tensor:
    """Twelve samples of one to three rows, some with columns of sizes apart."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(12, 1 + seed % 3, 5, generator=generator, dtype=torch.float64)
    return v * torch.logspace(0, -2, 5).double() if seed % 4 == 3 else v


def case(
    monkeypatch: pytest.MonkeyPatch,
    v: Tensor,
    *,
    lamb: float = 1.0,
    n_select: int | None = None,
    labels: bool = False,
    backward: int = 0,
    bits: int = 500,
) -> Case:
    n_select = n_select or max(1, 4 // v.shape[1])
    fisher = torch.einsum("nrk,nrl->kl", v, v) / len(v)
    labeled = torch.einsum("nrk,nrl->kl", v[:2], v[:2]) / 2 if labels else None
    n_labeled = 2 if labels else 0
    monkeypatch.setattr(digits, "BITS", bits)
    exact = digits.select(
        v, n_select, fisher, labeled, lamb=lamb, n_labeled=n_labeled, backward_steps=backward
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = select_batch(
            v, n_select, fisher, labeled, lamb=lamb, n_labeled=n_labeled, backward_steps=backward
        )
    assert {each.category for each in told} <= {PrecisionWarning}
    return Case(exact, found, [str(each.message) for each in told])


@pytest.mark.parametrize("size", [1e-2, 1e-8, 1e-12, 1e-40, 1e-70])
def test_small_gradients_that_differ_by_a_ten_millionth(size: float) -> None:
    v = torch.tensor([[[1.0, 0]], [[1 + 1e-7, 0]], [[0.5, 0.5]], [[0, 0.9]]], dtype=torch.float64)
    assert picks(select_batch(v * size, 1)) == [1]


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("exponent", [-60, -30, -12, -10, -9, -8, -7, -6, -5, -3, 0, 3, 5])
def test_scores_at_every_size(
    exponent: int, labels: bool, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2, 4):
        v, bits = pool(seed) * 10.0**exponent, 1400 if exponent < -12 else 500
        one = case(monkeypatch, v, labels=labels, backward=backward, bits=bits)
        if not one.clear:
            continue
        assert one.right and not one.told
        kept = [one.exact.steps.index(index) for index in one.exact.kept]
        expected = torch.tensor(one.exact.changes, dtype=torch.float64)[kept]
        torch.testing.assert_close(one.found.scores, expected, rtol=1e-7, atol=0.0)
        assert one.objective_error < 1e-7


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [-200, -40, -1, 30, 200])
def test_all_scaled_together(power: int, seed: int) -> None:
    """V by s, F and lamb by s^2, powers of two that round nothing: the same picks and scores."""
    v = pool(seed)
    s = 2.0**power
    fisher = torch.einsum("nrk,nrl->kl", v, v) / len(v)
    for lamb in (1e-6, 1.0, 1e6):
        one = select_batch(v, 3, fisher, lamb=lamb)
        other = select_batch(v * s, 3, fisher * s**2, lamb=lamb * s**2)
        assert picks(one) == picks(other)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("part", range(5))
def test_no_pick_is_lost_without_a_word(
    part: int, labels: bool, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10 * part, 10 * part + 10):
        size = 10.0 ** (9 + 11 * torch.rand(1, generator=torch.Generator().manual_seed(seed)))
        try:
            one = case(monkeypatch, pool(seed) * float(size), labels=labels, backward=backward)
        except ValueError as error:
            # F_L alone, of fewer rows than columns, has rounded lamb away.
            assert labels and "lamb = 1 is too small against it" in str(error)
            continue
        assert one.right or one.told or not one.clear, f"{seed}, {float(size):g}"
        assert all("too large against lamb" in text and "raise lamb" in text for text in one.told)
        assert float(one.found.objective.min()) >= 0


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("ratio", [1e-9, 1e-11, 1e-12])
def test_what_is_left_where_picks_span_all_columns(
    ratio: float, labels: bool, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objective falls to rounding of its start and below."""
    for seed in range(3):
        v = pool(seed)
        fisher = torch.einsum("nrk,nrl->kl", v, v) / len(v)
        lamb = ratio * float(torch.linalg.eigvalsh(fisher)[-1])
        one = case(
            monkeypatch, v, lamb=lamb, n_select=5, labels=labels, backward=backward, bits=300
        )
        assert float(one.found.objective.min()) > 0
        if one.clear and one.right:
            assert one.objective_error < 1e-4


@pytest.mark.parametrize("size", [1e-80, 1e-120, 1e-150])
def test_gradients_whose_scores_vanish(size: float) -> None:
    with pytest.warns(PrecisionWarning, match="too small against lamb.* scale the gradients up"):
        found = select_batch(pool(0) * size, 3)
    assert len(set(picks(found))) == 3


def test_gradients_of_zero_are_no_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picks(select_batch(pool(0) * 0, 2)) == [0, 1]


def test_a_direction_of_which_f_knows_alone() -> None:
    """All that a sample wins lies where it is a hundred million times smaller."""
    v = torch.tensor([[[1.0, 0], [0, 1e-8]], [[1.0, 0], [0, 2e-8]]], dtype=torch.float64)
    found = select_batch(v, 1, torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    assert picks(found) == [1]
    torch.testing.assert_close(found.scores, torch.tensor([4e-16], dtype=torch.float64))
