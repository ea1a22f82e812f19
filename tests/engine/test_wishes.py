"""The options of a selection against their definition, where each changes half of the picks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pools import picks
from wishes import (
    N_LABELED,
    N_SELECT,
    OPTIONS,
    defined,
    given_to,
    matrices,
    options_of,
    pool,
    published,
)

from fishermask_fast import fast_select, reference, save_factors, select_batch


@pytest.mark.parametrize("backward_steps", [0, 1])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_pick_what_their_definition_does(
    name: str, backward_steps: int, tmp_path: Path
) -> None:
    factors = pool("part")
    usual = published(factors, backward_steps)
    given = options_of(name, usual)
    expected = defined(factors, given, backward_steps)
    assert len(set(usual) - set(expected)) >= N_SELECT / 2
    stored = save_factors(factors, tmp_path / "factors.safetensors")
    arguments = given_to(factors, given) | {"backward_steps": backward_steps}
    for gradients in (factors, factors.dense(), stored):
        for block_size in (1, 8, 32):
            found = select_batch(gradients, block_size=block_size, **arguments)
            assert picks(found) == expected
    assert fast_select(factors, **arguments) == expected


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_float32_gradients(name: str) -> None:
    factors = pool("whole", torch.float32)
    given = options_of(name, published(factors, 1))
    expected = defined(factors, given, 1)
    for precision in ("mixed", "float64"):
        arguments = given_to(factors, given) | {"backward_steps": 1, "precision": precision}
        assert picks(select_batch(factors, **arguments)) == expected


def test_sums_are_the_published_scale_by_other_numbers() -> None:
    """M in sums is (n_L + K) / K times the published M of lamb = p K / (n_L + K) and K F_L."""
    factors = pool()
    fisher, labeled = matrices(factors.n_columns)
    share = N_SELECT / (N_LABELED + N_SELECT)
    given = {"fisher": fisher, "n_labeled": N_LABELED, "backward_steps": 1}
    sums = select_batch(factors, N_SELECT, labeled_fisher=labeled, prior_precision=0.3, **given)
    rescaled = N_SELECT * labeled
    scaled = select_batch(factors, N_SELECT, labeled_fisher=rescaled, lamb=0.3 * share, **given)
    assert picks(sums) == picks(scaled)
    torch.testing.assert_close(sums.objective, scaled.objective * share, rtol=1e-9, atol=0)


def test_the_objective_of_log_det_is_minus_log_det_m() -> None:
    factors = pool()
    v = factors.dense()
    found = select_batch(factors, 5, criterion="logdet", prior_precision=0.5, pending=[7, 9])
    m = 0.5 * torch.eye(factors.n_columns, dtype=torch.float64)
    m += sum(v[x].T @ v[x] for x in (7, 9))
    values = [-float(m.logdet())]
    for pick in found:
        m = m + v[pick].T @ v[pick]
        values.append(-float(m.logdet()))
    torch.testing.assert_close(found.objective.tolist(), values, rtol=1e-12, atol=1e-12)
    assert "-log det M" in repr(found)


def test_log_det_tells_small_gains_apart() -> None:
    """Gains of 1e-14, of which 1 + gain keeps two digits, are compared by all of theirs."""
    size = torch.linspace(1, 2, 30, dtype=torch.float64)[torch.randperm(30)]
    v = 1e-7 * size[:, None, None] * torch.ones(30, 1, 2, dtype=torch.float64)
    found = select_batch(v, 10, criterion="logdet")
    assert picks(found) == size.argsort(descending=True)[:10].tolist()


def test_fisher_sft_is_log_det_of_token_states() -> None:
    """FisherSFT (ICML 2025): log det of the sum of tokens' states, greedy over sentences."""
    states = torch.randn(40, 6, 9, dtype=torch.float64)  # sentences, tokens, width
    m, left, expected = torch.eye(9, dtype=torch.float64), list(range(40)), []
    for _ in range(12):
        gains = [torch.logdet(m + states[x].T @ states[x]) for x in left]
        expected.append(left.pop(int(torch.stack(gains).argmax())))
        m = m + states[expected[-1]].T @ states[expected[-1]]
    assert fast_select(states, 12, criterion="logdet", prior_precision=1.0) == expected


def test_active_reward_modelling_is_log_det_of_preference_pairs() -> None:
    """D-optimal pairs (ICML 2025): rows sqrt(p (1 - p)) (h_a - h_b) of a Bradley-Terry model."""
    first, second = torch.randn(2, 50, 8, dtype=torch.float64)
    reward = torch.randn(8, dtype=torch.float64)
    difference = first - second
    p = (difference @ reward).sigmoid()
    rows = ((p * (1 - p)).sqrt()[:, None] * difference)[:, None]
    information, expected = 0.1 * torch.eye(8, dtype=torch.float64), []
    for _ in range(10):
        gains = torch.stack([torch.logdet(information + row.T @ row) for row in rows])
        gains[expected] = -torch.inf
        expected.append(int(gains.argmax()))
        information = information + rows[expected[-1]].T @ rows[expected[-1]]
    assert fast_select(rows, 10, criterion="logdet", prior_precision=0.1) == expected


@pytest.mark.parametrize("criterion", ["trace", "logdet"])
def test_equal_samples_of_unequal_weight(criterion: str) -> None:
    v = torch.randn(1, 2, 5).expand(40, 2, 5)
    weights = torch.ones(40)
    weights[[30, 17]] = 2.0
    found = fast_select(v, 4, gain_weights=weights, criterion=criterion)
    assert found == [17, 30, 0, 1]


@pytest.mark.parametrize("block_size", [1, 8, None])
def test_a_cluster_each_of_near_duplicates(block_size: int | None) -> None:
    """Frames of 30 videos: one of each, whatever the block."""
    frames = torch.randn(30, 1, 3, 7, dtype=torch.float64).expand(30, 10, 3, 7)
    frames = (frames + 1e-3 * torch.randn(30, 10, 3, 7, dtype=torch.float64)).reshape(300, 3, 7)
    video = torch.arange(300) // 10
    found = select_batch(frames, 30, cluster_ids=video, max_per_cluster=1, block_size=block_size)
    assert sorted(video[found.indices].tolist()) == list(range(30))
    expected = reference.select(frames, 30, cluster_ids=video.tolist(), max_per_cluster=1)[0]
    assert picks(found) == expected


def test_pending_samples_fill_their_cluster() -> None:
    v = torch.randn(6, 1, 3, dtype=torch.float64)
    given = {"cluster_ids": [0, 0, 0, 1, 1, 1], "max_per_cluster": 2, "pending": [0, 1]}
    assert sorted(fast_select(v, 2, **given)) <= [3, 4, 5]
    with pytest.raises(ValueError, match="at most the 2 samples that pending, exclude and max"):
        fast_select(v, 3, **given)


def test_too_few_for_backward_steps_are_told() -> None:
    v = torch.randn(12, 1, 3, dtype=torch.float64)
    given = {"exclude": [0, 1, 2], "backward_steps": 1}
    with pytest.warns(UserWarning, match="the pool leaves 9 to pick: all of them"):
        found = fast_select(v, 5, **given)
    assert found == reference.select(v, 5, **given)[0]


N_BAD = 6
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lamb": 1.0, "prior_precision": 1.0}, ValueError, "lamb and prior_precision are two scales"),
    ({"lamb": 1.0, "prior_precision": "auto"}, ValueError, "give one of them; got lamb = 1.0"),
    ({"lamb": "half"}, TypeError, "lamb must be a number above 0; got 'half'"),
    ({"prior_precision": 0}, ValueError, "prior_precision must be a finite number above 0"),
    ({"prior_precision": "1"}, TypeError, "prior_precision must be a number above 0; got '1'"),
    ({"lamb": "auto", "fisher": torch.zeros(3, 3)}, ValueError, "a trace above 0; got 0"),
    ({"gain_weights": torch.ones(5)}, ValueError, r"shape \(6,\), one a sample; got \(5,\)"),
    ({"gain_weights": [1.0] * 5 + [0.0]}, ValueError, "above 0 .exclude= bars .*0 at index 5"),
    ({"gain_weights": [1.0] * 5 + [math.nan]}, ValueError, "nan at index 5"),
    ({"gain_weights": "costs"}, TypeError, "gain_weights must be numbers"),
    ({"gain_weights": ["a"] * 6}, TypeError, "gain_weights must be numbers"),
    ({"gain_weights": torch.ones(6) * 1j}, TypeError, "gain_weights must be numbers"),
    ({"gain_weights": (torch.ones(6) * 1j).cdouble()}, TypeError, "gain_weights must be numbers"),
    ({"pending": [6]}, ValueError, r"pending must be indices within 0..5, the pool's; got 6"),
    ({"exclude": [-1]}, ValueError, "exclude must be indices of 0 or more; got -1"),
    ({"pending": [1, 2, 1]}, ValueError, "pending names sample 1 more than once"),
    ({"pending": torch.tensor([0.5])}, TypeError, "pending must be integers"),
    ({"pending": torch.ones(6).bool()}, TypeError, "pending must be integers"),
    ({"pending": 3}, TypeError, "pending must be integers"),
    ({"cluster_ids": [0] * 6}, ValueError, "cluster_ids and max_per_cluster belong together"),
    ({"max_per_cluster": 1}, ValueError, "cluster_ids and max_per_cluster belong together"),
    ({"cluster_ids": [0] * 5, "max_per_cluster": 1}, ValueError, "one a sample; got 5"),
    ({"cluster_ids": [0] * 6, "max_per_cluster": 0}, ValueError, "max_per_cluster must be at le"),
    ({"cluster_ids": list("aabbcc"), "max_per_cluster": 1}, TypeError, "cluster_ids must be num"),
    ({"criterion": "trace(F)"}, ValueError, "criterion must be one of trace, logdet"),
    ({"criterion": None}, ValueError, "criterion must be one of trace, logdet"),
    ({"criterion": "logdet", "fisher": torch.eye(3)}, ValueError, "fisher plays no part"),
    ({"exclude": range(5)}, ValueError, "n_select must be at most the 1 samples"),
]


@pytest.mark.parametrize("given,kind,text", BAD, ids=range(len(BAD)))
def test_what_is_refused(given: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        select_batch(torch.randn(N_BAD, 1, 3), 2, **given)
