"""Strategies against their formulas, written out sample by sample."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from fishermask_fast import FisherMaskSelector, fisher_diagonal
from fishermask_fast.datasets import PoolAndTest, load_data
from fishermask_fast.models.networks import build_model
from fishermask_fast.options import DataOptions, QueryOptions
from fishermask_fast.strategies import registry as strategies
from fishermask_fast.strategies.diversity import factored_kmeans_plusplus
from fishermask_fast.strategies.interface import Picks
from fishermask_fast.strategies.uncertainty import predict

QUERY = QueryOptions(fraction=0.03, fisher_samples=32)


@pytest.fixture(scope="module")
def digits() -> PoolAndTest:
    return load_data(DataOptions(pool_size=80, test_size=60))


class Given(nn.Module):
    """A model whose logits and hidden features are the input itself."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(n_classes, n_classes, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(n_classes))

    def forward(self, logits: Tensor) -> Tensor:
        found: Tensor = self.fc(logits)
        return found


def pick(name: str, logits: Tensor, n: int, labeled: Tensor | None = None, seed: int = 0) -> Picks:
    model = Given(logits.shape[1])
    labeled = logits[:0] if labeled is None else labeled
    return strategies.STRATEGIES[name](
        model, TensorDataset(logits), TensorDataset(labeled), n, seed, QUERY
    )


@pytest.mark.parametrize("name", list(strategies.STRATEGIES))
def test_strategies_pick_different_samples_by_seed(digits: PoolAndTest, name: str) -> None:
    model = build_model("cnn_small", 10, digits.shape)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pool, labeled = Subset(digits.pool, range(40, 80)), Subset(digits.pool, range(40))
    first, again = (
        strategies.STRATEGIES[name](model, pool, labeled, 8, 3, QUERY) for _ in range(2)
    )
    assert first.indices.tolist() == again.indices.tolist()
    assert first.indices.dtype == torch.int64
    assert len(first.info.get("scores", range(8))) == 8
    assert len(first.indices.unique()) == 8
    assert first.indices.min() >= 0 and first.indices.max() < 40
    json.dumps(first.info)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    # BAIT says that it cannot pick 80 of 40 before it drops any.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        everything = strategies.STRATEGIES[name](model, pool, labeled, 40, 3, QUERY)
    assert sorted(everything.indices.tolist()) == list(range(40))


def test_random_strategy_is_uniform() -> None:
    counts = torch.zeros(6)
    for seed in range(600):
        picks = strategies.random(nn.Identity(), range(6), range(0), 2, seed, QUERY)  # type: ignore[arg-type]
        counts[picks.indices] += 1
    # 600 draws of 2 of 6: 200 each, standard deviation 11.5.
    assert (counts - 200).abs().max() < 5 * 11.5


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("entropy", lambda p: -sum(each * each.log() for each in p)),
        ("margin", lambda p: -(p.sort().values[-1] - p.sort().values[-2])),
        ("least_confidence", lambda p: 1 - p.max()),
    ],
)
def test_uncertainty_is_the_formulas(name: str, score: Callable[[Tensor], Tensor]) -> None:
    logits = 2 * torch.randn(30, 4)
    scores = torch.stack([score(row.double().softmax(0)) for row in logits])
    assert pick(name, logits, 7).indices.tolist() == scores.argsort(descending=True)[:7].tolist()


@pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
def test_ties_go_to_the_lowest_index(name: str) -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert pick(name, logits, 3).indices.tolist() == [1, 2, 3]


@pytest.mark.parametrize("n_labeled", [0, 1, 9])
def test_coreset_takes_the_furthest_each_time(n_labeled: int) -> None:
    h, labeled = torch.randn(25, 3).double(), torch.randn(n_labeled, 3).double()
    centres = list(labeled) or [h.mean(0)]
    expected = []
    for _ in range(6):
        distances = torch.stack([min((x - c).norm() for c in centres) for x in h])
        expected.append(int(distances.argmax()))
        centres.append(h[expected[-1]])
    found = pick("coreset", h.float(), 6, labeled.float())
    assert found.indices.tolist() == expected
    assert found.info["scores"] == sorted(found.info["scores"], reverse=True)


def test_badge_draws_in_proportion_to_distances_of_gradients() -> None:
    logits = torch.randn(5, 3)
    a = logits.double().softmax(1)
    gradients = (a - nn.functional.one_hot(a.argmax(1), 3))[:, :, None] * logits.double()[:, None]
    distances = torch.cdist(gradients.flatten(1), gradients.flatten(1)).square()
    pairs = torch.zeros(5, 5)
    n_draws = 3000
    log_p, h = predict(Given(3), TensorDataset(logits), hidden=True)
    a = log_p.exp() - nn.functional.one_hot(log_p.argmax(1), 3)
    for seed in range(n_draws):
        generator = torch.Generator().manual_seed(seed)
        first, second = factored_kmeans_plusplus(a, h, 2, generator).tolist()
        pairs[first, second] += 1
    assert pick("badge", logits, 2, seed=n_draws - 1).indices.tolist() == [first, second]
    expected = (distances / distances.sum(1, keepdim=True) / 5).float() * n_draws
    assert (pairs - expected).abs().max() < 5 * expected.sqrt().max()


def test_badge_takes_samples_that_are_all_alike() -> None:
    assert sorted(pick("badge", torch.ones(6, 3), 6).indices.tolist()) == list(range(6))
    # Distances of samples far from the origin are small differences of large numbers.
    a, h = torch.ones(50, 2).double(), 1e6 + torch.zeros(50, 3).double()
    picks = factored_kmeans_plusplus(a, h, 50, torch.Generator().manual_seed(0))
    assert sorted(picks.tolist()) == list(range(50))


def test_coreset_takes_duplicates_last() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [5.0, 0.0]])
    found = pick("coreset", points, 4, torch.tensor([[0.0, 0.0]])).indices.tolist()
    assert sorted(found) == [0, 1, 2, 3] and found[0] == 2


@pytest.mark.parametrize("n", [1, 4, 5])
def test_the_hybrid_is_half_entropy_and_half_fishermask(digits: PoolAndTest, n: int) -> None:
    model = build_model("cnn_small", 10, digits.shape)
    pool, labeled = Subset(digits.pool, range(40, 80)), Subset(digits.pool, range(40))
    found = strategies.fishermask_entropy(model, pool, labeled, n, 3, QUERY).indices.tolist()
    half = n // 2
    first = strategies.entropy(model, pool, labeled, max(half, 1), 3, QUERY).indices.tolist()
    assert found[:half] == first[:half]
    rest = [index for index in range(40) if index not in found[:half]]
    then = strategies.fishermask(model, Subset(pool, rest), labeled, n - half, 3, QUERY)
    assert found[half:] == [rest[index] for index in then.indices.tolist()]


def test_predictions_are_the_models(digits: PoolAndTest, assert_close: Callable[..., None]) -> None:
    model = build_model("cnn_small", 10, digits.shape).eval()
    images = torch.stack([image for image, _ in digits.test])
    log_p, h = predict(model, digits.test, 7, hidden=True)
    assert_close(log_p, model(images).detach().log_softmax(1), k=64, dtype=torch.float32)
    assert_close(h, model[:-1](images).detach(), k=64, dtype=torch.float32)  # type: ignore[index]
    assert h.shape == (60, 64)
    assert not model[-1]._forward_pre_hooks  # type: ignore[index]


def test_what_cannot_work_is_found_before_training(digits: PoolAndTest) -> None:
    model = build_model("cnn_small", 10, digits.shape)
    for name in ("fishermask", "fishermask_entropy", "bait"):
        with pytest.raises(ValueError, match="rank must be at most the 10 classes; got 11"):
            strategies.check(name, model, 10, QueryOptions(fraction=0.03, rank=11))
    for name in ("coreset", "badge"):
        with pytest.raises(ValueError, match="must end in a head"):
            strategies.check(name, nn.Conv2d(1, 10, 8), 10, QUERY)


def test_a_head_that_takes_more_than_a_vector_is_named() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x).mean(1)
            return logits

    with pytest.raises(ValueError, match=r"fc must take one vector a sample, \(N, d\); got \(5, 4"):
        predict(Tokens(), TensorDataset(torch.zeros(5, 4, 3)), hidden=True)


def test_the_middle_mask_leaves_the_head_out(digits: PoolAndTest) -> None:
    model = build_model("cnn_small", 10, digits.shape)
    pool, labeled = Subset(digits.pool, range(40, 80)), Subset(digits.pool, range(40))
    options = QueryOptions(fraction=0.01, mask="middle", fisher_samples=80)
    picks = strategies.fishermask(model, pool, labeled, 3, 0, options)
    assert picks.mask is not None
    size = sum(p.numel() for p in model.parameters())
    assert len(picks.mask) == int(0.01 * size)
    scores = fisher_diagonal(model, Subset(digits.pool, range(80)), n_samples=80)
    del scores["11.weight"]
    assert set(picks.mask.indices) <= set(scores)
    taken = torch.cat([scores[n].flatten()[i] for n, i in picks.mask.indices.items()])
    everything = torch.cat([score.flatten() for score in scores.values()])
    assert torch.equal(taken.sort().values, everything.sort().values[-len(taken) :])


@pytest.mark.parametrize("n", [7, 12])
@pytest.mark.parametrize("name", list(strategies.STRATEGIES))
def test_picks_are_distinct_whatever_repeats(name: str, n: int) -> None:
    """Duplicates, ties and samples that say nothing: n different indices of the pool."""
    torch.manual_seed(n)
    kinds = [
        torch.randn(2, 3).repeat(6, 1),  # two samples, six times each
        torch.tensor([[50.0, 0.0, 0.0]]).repeat(12, 1),  # nothing to learn from any
    ]
    for logits in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = strategies.STRATEGIES[name](
                Given(3),
                TensorDataset(logits),
                TensorDataset(logits[:2]),
                n,
                0,
                QueryOptions(fraction=1.0, fisher_samples=32),
            ).indices
        assert found.dtype == torch.int64 and found.shape == (n,)
        assert len(set(found.tolist())) == n and 0 <= int(found.min()) <= int(found.max()) < 12


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("random", {"lamb": 2.0, "batch_size": 3}, ["lamb", "batch_size"]),
        ("entropy", {"fraction": 0.5, "batch_size": 3}, ["fraction"]),
        ("coreset", {"rank": 2, "weighting": "none"}, ["weighting", "rank"]),
        ("bait", {"mask": "random", "lamb": 2.0, "keep_head": False}, ["mask", "keep_head"]),
        ("fishermask", {"mask": "head", "fraction": 0.5, "fisher_samples": 9},
         ["fraction", "fisher_samples"]),
        ("fishermask", {"mask": "middle", "fraction": 0.5, "keep_head": False}, ["keep_head"]),
        ("fishermask", {"fraction": 0.5, "lamb": 2.0}, []),
        ("fishermask_entropy", {"mask": "random", "keep_head": False}, ["keep_head"]),
    ],
)  # fmt: skip
def test_options_that_a_strategy_does_not_read(
    name: str, options: dict[str, object], expected: list[str]
) -> None:
    assert strategies.unread(name, QueryOptions(**options)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("duplicated", [False, True])
@pytest.mark.parametrize("name", list(strategies.STRATEGIES))
def test_every_strategy_picks_different_samples(name: str, duplicated: bool) -> None:
    """K of them, also where samples are copies of each other, and where K is all of the pool."""
    torch.manual_seed(0)
    logits = torch.randn(24, 4)
    if duplicated:
        logits = logits[:3].repeat(8, 1)
    for n in (1, 7, 24):
        given = (Given(4), TensorDataset(logits), TensorDataset(torch.randn(5, 4)))
        found = strategies.STRATEGIES[name](*given, n, 0, QueryOptions()).indices.tolist()
        assert len(found) == len(set(found)) == n
        assert set(found) <= set(range(24))


OPTIONS: list[dict[str, object]] = [
    {"prior_precision": 0.01},
    {"criterion": "logdet"},
    {"rows": "top_class"},
    {"preset": "recommended"},
    {"eval_weights": "balanced"},
    {"class_weight": "balanced", "prior_precision": "auto"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(one) for one in OPTIONS])
def test_strategies_hand_options_to_the_selector(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Given(4)
    pool = TensorDataset(3 * torch.randn(60, 4))
    labeled = TensorDataset(torch.randn(8, 4), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2]))
    found = strategies.STRATEGIES["bait"](model, pool, labeled, 6, 0, QueryOptions(**options))
    selector = FisherMaskSelector(model, mask="head", backward_steps=1, **options)
    expected = selector.query(pool, 6, labeled, progress=False)
    assert found.indices.tolist() == expected.indices.tolist()
    assert not strategies.unread("bait", QueryOptions(**options))
    assert set(strategies.unread("margin", QueryOptions(**options))) == set(options)


def test_two_scales_of_the_prior_are_refused() -> None:
    options = QueryOptions(lamb=2.0, prior_precision=1.0)
    with pytest.raises(ValueError, match="lamb and prior_precision are two scales"):
        strategies.check("bait", Given(4), 4, options)
