"""UHerding, TypiClust and the filter before UHerding, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fishermask_fast import FisherMaskSelector
from fishermask_fast.options import QueryOptions, SampleOptions
from fishermask_fast.strategies import STRATEGIES, check, unread
from fishermask_fast.strategies import pick as pick_of
from fishermask_fast.strategies.herding import bandwidth, herd
from fishermask_fast.strategies.interface import Picks
from fishermask_fast.strategies.typical import typical

OWN = ("uherding", "typiclust", "fishermask_coverage")


def a_head(d: int, n_classes: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(d, n_classes)


def pick(name: str, model: nn.Module, pool: Tensor, known: Tensor, n: int, **options: int) -> Picks:
    given = (model, TensorDataset(pool), TensorDataset(known))
    return STRATEGIES[name](*given, n, 0, QueryOptions(**options))  # type: ignore[arg-type]


def unit(x: Tensor) -> Tensor:
    return x.double() / x.double().norm(dim=1, keepdim=True)


def herding_by_definition(
    model: nn.Module, pool: Tensor, known: Tensor, n: int, among: list[int]
) -> tuple[list[int], list[float]]:
    """UHerding with every gain of every pick computed anew, pair by pair."""
    p = model(pool).double().softmax(1).sort(1).values.detach()
    uncertain = 1 - (p[:, -1] - p[:, -2])
    x, s = unit(pool), list(unit(known))
    distances = [float((a - b).norm()) for i, a in enumerate(s) for b in s[:i]]
    h = min((d for d in distances if d > 1e-6), default=1.0)

    def kernel(a: Tensor, b: Tensor) -> float:
        return math.exp(-(float((a - b).norm()) ** 2) / h**2)

    picks: list[int] = []
    gains: list[float] = []
    for _ in range(n):
        covered = [max((kernel(c, z) for c in s), default=0.0) for z in x]
        found = {
            i: sum(
                float(u) * max(kernel(x[i], z) - have, 0.0)
                for u, z, have in zip(uncertain, x, covered, strict=True)
            )
            for i in among
            if i not in picks
        }
        best = max(found, key=lambda i: (found[i], -i))
        picks.append(best)
        gains.append(found[best])
        s.append(x[best])
    return picks, gains


@pytest.mark.parametrize("n_known", [0, 1, 2, 7])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_uherding_is_its_definition(n_known: int, spread: float) -> None:
    model = a_head(5, 3)
    pool = spread * torch.randn(40, 5) + torch.randn(5)
    known = spread * torch.randn(n_known, 5)
    picks, gains = herding_by_definition(model, pool, known, 8, list(range(40)))
    found = pick("uherding", model, pool, known, 8)
    assert found.indices.tolist() == picks
    assert found.info["scores"] == pytest.approx(gains, rel=1e-6)
    assert gains == sorted(gains, reverse=True)


def test_uherding_looks_again_at_more_than_a_block() -> None:
    """A pool of clumps: one pick takes the gains of whole blocks of candidates below others."""
    torch.manual_seed(1)
    model = a_head(4, 3)
    centres = torch.randn(3, 4)
    pool = torch.cat([c + 0.05 * torch.randn(50, 4) for c in centres])
    known = torch.randn(4, 4)
    picks, _ = herding_by_definition(model, pool, known, 6, list(range(150)))
    assert pick("uherding", model, pool, known, 6).indices.tolist() == picks


def test_the_bandwidth_is_the_least_distance_of_labels_that_differ() -> None:
    known = unit(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert bandwidth(known) == pytest.approx(float((known[0] - known[3]).norm()))
    assert bandwidth(known[:2]) == bandwidth(known[:1]) == bandwidth(known[:0]) == 1.0


def test_herding_picks_each_once_where_nothing_is_uncertain() -> None:
    x = unit(torch.randn(12, 3))
    picks, gains = herd(x, x[:0], torch.zeros(12).double(), torch.arange(12), 12, 1.0)
    assert picks.tolist() == list(range(12)) and gains == [0.0] * 12


def typical_by_definition(x: Tensor, clusters: list[int], n_known: int, n: int) -> list[int]:
    """The clusters' turns and typicalities, sample by sample."""
    names = range(max(clusters) + 1)
    members = {c: [i for i, own in enumerate(clusters) if own == c] for c in names}
    n_labels = {c: sum(i < n_known for i in members[c]) for c in names}
    order = sorted(names, key=lambda c: (len(members[c]) <= 5, n_labels[c], -len(members[c])))
    picks: list[int] = []
    while len(picks) < n:
        for c in order:
            rows = [i for i in members[c] if i >= n_known and i not in picks]
            if not rows or len(picks) == n:
                continue
            typicality = {}
            for i in rows:
                others = sorted(float((x[i] - x[j]).norm()) for j in rows if j != i)[:20]
                typicality[i] = len(others) / max(sum(others), 1e-12) if others else 1.0
            picks.append(max(rows, key=lambda i: typicality[i]))
    return picks


@pytest.mark.parametrize(("n_known", "n"), [(0, 5), (4, 6), (9, 20)])
def test_typiclust_is_its_definition(n_known: int, n: int) -> None:
    model = a_head(4, 3, seed=n)
    known, pool = torch.randn(n_known, 4), torch.randn(70, 4)
    x = unit(torch.cat([known, pool]))
    clusters = KMeans(n_known + n, n_init=1, random_state=0).fit(x.numpy()).labels_.tolist()
    expected = [i - n_known for i in typical_by_definition(x, clusters, n_known, n)]
    assert pick("typiclust", model, pool, known, n).indices.tolist() == expected


def test_typiclust_goes_round_again_where_clusters_are_few() -> None:
    x = unit(torch.randn(15, 3))
    clusters = [0] * 8 + [1] * 7
    expected = typical_by_definition(x, clusters, 2, 13)
    assert typical(x, torch.tensor(clusters), 2, 13)[0].tolist() == expected
    assert sorted(expected) == list(range(2, 15))


def test_fishermask_filters_and_coverage_picks() -> None:
    model = a_head(6, 4)
    pool, known = 2 * torch.randn(90, 6), torch.randn(10, 6)
    selector = FisherMaskSelector(model, lamb="auto", eval_weights="balanced")
    candidates = selector.query(
        TensorDataset(pool), 30, TensorDataset(known), progress=False
    ).indices.tolist()
    found = pick("fishermask_coverage", model, pool, known, 6)
    x, h = unit(pool), bandwidth(unit(known))
    p = model(pool).double().softmax(1).sort(1).values.detach()
    places, gains = herd(x, unit(known), 1 - (p[:, -1] - p[:, -2]), torch.tensor(candidates), 6, h)
    assert found.indices.tolist() == [candidates[i] for i in places.tolist()]
    # The whole pool is to be covered, and only candidates are picked.
    expected, _ = herding_by_definition(model, pool, known, 6, candidates)
    assert found.indices.tolist() == expected
    assert found.info["scores"] == gains and "objective" not in found.info
    assert found.indices.tolist() != pick("uherding", model, pool, known, 6).indices.tolist()


def test_the_filter_has_its_own_prior_and_target() -> None:
    model, pool, known = a_head(6, 4), torch.randn(60, 6), torch.randn(5, 6)
    plain = pick("fishermask_coverage", model, pool, known, 4)
    given = QueryOptions(preset="published", lamb=9.0, class_weight="balanced", criterion="logdet")
    other = STRATEGIES["fishermask_coverage"](
        model, TensorDataset(pool), TensorDataset(known), 4, 0, given
    )
    assert other.indices.tolist() == plain.indices.tolist()
    assert unread("fishermask_coverage", given) == ["lamb", "criterion", "class_weight"]
    assert not unread("fishermask_coverage", QueryOptions(n_parameters=9, rows="top_class"))


@pytest.mark.parametrize(
    "options",
    [{"prior_precision": 1.0, "rows": "top_class"}, {"eval_weights": "uncovered"}],
    ids=["prior", "target"],
)
def test_another_prior_or_target_takes_its_place(options: dict[str, Any]) -> None:
    model = a_head(6, 4)
    pool, known = TensorDataset(2 * torch.randn(90, 6)), TensorDataset(torch.randn(10, 6))
    found = STRATEGIES["fishermask_coverage"](model, pool, known, 6, 0, QueryOptions(**options))
    aim = {"eval_weights": "balanced", **options}
    if "prior_precision" not in options:
        aim["lamb"] = "auto"
    first = FisherMaskSelector(model, **aim).query(pool, 30, known, progress=False).indices
    expected, _ = herding_by_definition(model, pool.tensors[0], known.tensors[0], 6, first.tolist())
    assert found.indices.tolist() == expected
    assert not unread("fishermask_coverage", QueryOptions(**options))


@pytest.mark.parametrize("name", OWN)
def test_what_is_barred_is_not_picked_and_what_is_pending_covers(name: str) -> None:
    model = a_head(6, 4)
    x, known = 2 * torch.randn(60, 6), torch.randn(8, 6)
    pending, exclude = (3, 40), (0, 7, 59)
    samples = SampleOptions(pending=pending, exclude=exclude)
    given = (model, TensorDataset(x), TensorDataset(known), 6, 0, QueryOptions(samples=samples))
    found = pick_of(name, *given).indices.tolist()
    assert len(set(found)) == 6 and not {*found} & {*pending, *exclude}
    rest = [i for i in range(60) if i not in (*pending, *exclude)]
    labeled = torch.cat([known, x[list(pending)]])
    if name == "fishermask_coverage":
        selector = FisherMaskSelector(model, lamb="auto", eval_weights="balanced")
        query = {"pending": pending, "exclude": exclude, "progress": False}
        data = (TensorDataset(x), 30, TensorDataset(known))
        among = [rest.index(int(i)) for i in selector.query(*data, **query).indices]
        expected, _ = herding_by_definition(model, x[rest], labeled, 6, among)
    else:
        expected = pick(name, model, x[rest], labeled, 6).indices.tolist()
    assert found == [rest[i] for i in expected]
    everything = QueryOptions(samples=samples)
    left = pick_of(name, *given[:3], 55, 0, everything).indices.tolist()
    assert sorted(left) == rest


def test_a_pool_smaller_than_the_candidates_is_taken_whole() -> None:
    model, pool = a_head(6, 4), torch.randn(12, 6)
    found = pick("fishermask_coverage", model, pool, torch.randn(3, 6), 5)
    whole = pick("uherding", model, pool, torch.randn(0, 6), 5)
    assert len(set(found.indices.tolist())) == 5 == len(set(whole.indices.tolist()))


@pytest.mark.parametrize("name", OWN)
def test_a_model_without_a_head_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must end in a head"):
        check(name, nn.Conv2d(1, 10, 8), 10, QueryOptions(n_parameters=9, keep_head=False))
