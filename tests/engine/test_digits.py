"""Picks against arithmetic of 60 digits, from lamb as large as F to 1e-14 of it.

Where the formula in plain float64 finds the pick of 60 digits, so must every path; what 60 digits
tell apart by less than a tie is left to the lowest index.
"""

from __future__ import annotations

import warnings
from typing import Any

import digits
import mpmath
import pytest
import torch
from pools import TIE, oracle, picks
from torch import Tensor

from fishermask_fast import (
    GradientFactors,
    PrecisionWarning,
    Selection,
    factors_from_embeddings,
    reference,
    select_batch,
)
from fishermask_fast.engine.candidates import LocalCandidates
from fishermask_fast.engine.device_blocks import BlockEngine
from fishermask_fast.engine.state import Report
from fishermask_fast.factors import first_of_equal

RATIOS = (1.0, 1e-3, 1e-6, 1e-8, 1e-10, 1e-12)
KINDS = ("dense", "dense, steep", "head", "masked head")
N, K = 10, 3


def pool(kind: str, seed: int) -> GradientFactors:
    """Samples whose rows span less than r, or columns of sizes far apart."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if kind.startswith("dense"):
        r = (1, 2, 3, 5, 10)[seed % 5]
        v = normal(N, r, 6)
        if r > 1:
            v[:, -1] = v[:, 0] / 2
        return GradientFactors(v * torch.logspace(0, -3, 6).double() if "steep" in kind else v)
    c, d = (3, 2) if kind == "head" else (4, 3)
    p = (2 * normal(N, c)).softmax(1)
    coupling = p.sqrt()[:, :, None] * (torch.eye(c) - p[:, None, :])
    hidden = normal(N, d)
    if kind == "head":
        hidden[:, 0] *= 1e3 ** (seed % 2)
        return GradientFactors(normal(N, c, 1), coupling, hidden)
    index = torch.randperm(c * d, generator=generator)[:6].sort().values
    return GradientFactors(hidden.new_empty(N, c, 0), coupling, hidden, index)


def problem(factors: GradientFactors, ratio: float, labels: bool, backward: int) -> dict[str, Any]:
    fisher = factors.fisher()
    options: dict[str, Any] = {"fisher": fisher, "backward_steps": backward}
    options["lamb"] = ratio * float(torch.linalg.eigvalsh(fisher)[-1])
    if labels:
        options |= {"labeled_fisher": factors[:2].fisher(), "n_labeled": 2}
    return options


def resolved(exact: digits.Exact) -> bool:
    """Whether no step was a tie, nor within the plain formula's reach of one."""
    return min(exact.gaps) > 2 * TIE


def ours(
    monkeypatch: pytest.MonkeyPatch, factors: GradientFactors, given: dict[str, Any]
) -> dict[str, Selection]:
    """The selection by every path: one pick at a time, blocks, and blocks made on the device."""
    found = {
        f"blocks of {size}": select_batch(factors, K, **given, block_size=size)
        for size in (1, 8, 32)
    }
    with monkeypatch.context() as patch:
        patch.setattr("fishermask_fast.engine.greedy.Engine", BlockEngine)
        patch.setattr("fishermask_fast.engine.inputs.DistinctCandidates", LocalCandidates)
        found["by the device"] = select_batch(factors, K, **given)
    return found


def check(
    monkeypatch: pytest.MonkeyPatch, kind: str, ratio: float, seed: int, labels: bool, backward: int
) -> bool:
    """Whether plain float64 finds the picks of 60 digits, after a look whether we do."""
    factors = pool(kind, seed)
    given = problem(factors, ratio, labels, backward)
    exact = digits.select(factors.dense(), K, **given)
    plain, _ = reference.select(factors.dense(), K, **given)
    if not resolved(exact) or plain != exact.kept:
        return False
    for path, selection in ours(monkeypatch, factors, given).items():
        assert picks(selection) == exact.kept, f"{kind}, {ratio:g}, {seed}: {path}"
        assert selection.dropped.tolist() == exact.steps[exact.n_forward :], path
    return True


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_those_of_sixty_digits(
    kind: str, ratio: float, labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = KINDS.index(kind) + 2 * RATIOS.index(ratio)
    check(monkeypatch, kind, ratio, seed, labels, backward=seed % 3)


@pytest.mark.sweep
@pytest.mark.parametrize("backward", [0, 1, 2])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("ratio", [*RATIOS, 1e-2, 1e-4, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_those_of_sixty_digits_everywhere(
    kind: str, ratio: float, labels: bool, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10):
        check(monkeypatch, kind, ratio, seed, labels, backward)


@pytest.mark.parametrize("ratio", [1e-2, 1e-6, 1e-10, 1e-12, 1e-14])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_lose_no_more_than_the_plain_formula_does(kind: str, ratio: float) -> None:
    """The error of all scores on the way, 8 times the plain formula's or rounding's at most."""
    factors = pool(kind, 4)
    given = problem(factors, ratio, labels=True, backward=0)
    exact = digits.select(factors.dense(), K, **given)
    plain, values = reference.select(factors.dense(), K, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        found = select_batch(factors, K, **given)
    if not resolved(exact) or not plain == exact.kept == picks(found):
        pytest.skip("plain float64 is lost here")
    expected = torch.tensor(exact.changes, dtype=torch.float64)
    error = ((found.scores - expected) / expected).abs().max()
    allowed = ((torch.tensor(values, dtype=torch.float64) - expected) / expected).abs().max()
    assert error <= max(8 * float(allowed), 1e-10)
    start = abs(float(found.objective[0]) / exact.objective - 1)
    assert start <= max(8 * float(allowed), 1e-10)


def test_the_digits_are_mpmath_s() -> None:
    v = pool("head", 0).dense()[0]
    matrix = v.T @ v + 1e-9 * torch.eye(v.shape[1])
    with mpmath.workdps(60):
        expected = mpmath.inverse(mpmath.matrix(matrix.tolist()))
        found = digits.inverse(digits.fixed(matrix))
        for at in range(len(found)):
            value = mpmath.mpf(int(found[at, at])) / mpmath.mpf(2) ** digits.BITS
            assert abs(value / expected[at, at] - 1) < mpmath.mpf(10) ** -40


@pytest.mark.parametrize(
    "lamb", [1e-5, *(pytest.param(lamb, marks=pytest.mark.sweep) for lamb in (1e-3, 1e-4, 1e-6))]
)
def test_real_gradients_against_a_small_lamb(lamb: float) -> None:
    """FisherMask's own V and F: 130 samples, some 200 masked parameters, as BAIT drops."""
    full = oracle().pool[:130]
    part = torch.arange(0, 1280, 9)
    factors = GradientFactors(full.middle[..., :50], full.coupling, full.hidden, part)
    factors = factors.to(dtype=torch.float64)
    expected, _ = reference.select(factors.dense(), 40, lamb=lamb, backward_steps=1)
    found = select_batch(factors, 40, lamb=lamb, backward_steps=1)
    assert picks(found) == expected
    assert float(found.objective.min()) > 0


def unscaled_table(size: float) -> GradientFactors:
    """A head of three classes on a table of 60 rows, one column of which is so large."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    table[:, 2] = size * torch.rand(60, generator=generator, dtype=torch.float64)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    return factors_from_embeddings(table, logits.softmax(1), bias=True)


@pytest.mark.parametrize("size", [1e2, 1e3, 5e4])
def test_a_table_with_an_unscaled_column(size: float) -> None:
    factors = unscaled_table(size)
    labeled = factors[:10]
    given: dict[str, Any] = {
        "fisher": factors.fisher(),
        "labeled_fisher": labeled.fisher(),
        "n_labeled": 10,
        "lamb": 1.0,
    }
    exact = digits.select(factors[10:].dense(), 5, **given)
    assert resolved(exact)
    assert picks(select_batch(factors[10:], 5, **given)) == exact.kept


@pytest.mark.parametrize("lamb", [1e160, 1e300])
def test_a_huge_lamb_is_no_error(lamb: float, generator: torch.Generator) -> None:
    v = torch.randn(12, 2, 3, generator=generator, dtype=torch.float64)
    with pytest.warns(PrecisionWarning, match="too small against lamb.* lower lamb") as told:
        assert len(set(picks(select_batch(v, 3, lamb=lamb)))) == 3
    assert len(told) == 1


def test_a_huge_block_is_the_pool(generator: torch.Generator) -> None:
    v = torch.randn(12, 2, 3, generator=generator, dtype=torch.float64)
    assert picks(select_batch(v, 3, block_size=10**9)) == picks(select_batch(v, 3))


def test_gradients_that_change_under_way_end(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pass says that another sample would have won, which the leaders deny."""
    v = torch.randn(200, 2, 3, generator=generator, dtype=torch.float64)
    verify = LocalCandidates.verify

    def lies(self: LocalCandidates, *arguments: Any, **options: Any) -> Report:
        report = verify(self, *arguments, **options)
        return report._replace(best=[1e9] * len(report.best))

    monkeypatch.setattr(LocalCandidates, "verify", lies)
    try:
        assert len(set(picks(select_batch(v, 9)))) == 9
    except RuntimeError as error:
        assert "change while they are read" in str(error)


def test_groups_of_equal_samples() -> None:
    v = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[1.0, -0.0]], [[3.0, 0.0]], [[2.0, 0.0]]])
    assert first_of_equal(GradientFactors(v)).tolist() == [0, 1, 3]
