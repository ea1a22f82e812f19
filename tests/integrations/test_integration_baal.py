"""The heuristic in baal's own loop, and its ranking against the formula."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fishermask_fast import factors_from_embeddings, reference

pytest.importorskip("baal")

from baal import ModelWrapper  # noqa: E402
from baal.active import ActiveLearningDataset, ActiveLearningLoop  # noqa: E402
from baal.modelwrapper import TrainingArgs  # noqa: E402

from fishermask_fast.integrations.baal import (  # noqa: E402
    FisherMaskHeuristic,
    head_mask,
    labeled_fisher,
)

N, C, D = 30, 3, 4


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, D), nn.ReLU())
        self.head = nn.Linear(D, C, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.body(x)
        return [self.head(h), h]


@pytest.fixture
def predictions(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    normal = torch.randn(N, C + D, generator=generator, dtype=torch.float64)
    return normal[:, :C], normal[:, C:]


@pytest.mark.parametrize("steps", [0, 1])
def test_ranking_is_the_formulas(steps: int, predictions: Any) -> None:
    z, h = predictions
    v = factors_from_embeddings(h, z.softmax(1)).dense()
    pool = v[:20]
    known = labeled_fisher([z[20:].numpy(), h[20:].numpy()])
    fisher = torch.einsum("nrk,nrl->kl", v, v) / N
    expected, _ = reference.select(
        pool, 5, fisher, known, lamb=0.5, n_labeled=10, backward_steps=steps
    )
    heuristic = FisherMaskHeuristic(5, known, 10, lamb=0.5, backward_steps=steps)
    given = [z[:20].numpy(), h[:20].numpy()]
    ranks, scores = heuristic.get_ranks(given)
    assert ranks[:5].tolist() == expected
    assert sorted(ranks.tolist()) == list(range(20))
    assert (np.diff(scores[ranks[5:]]) <= 0).all() and (scores >= 0).all()
    assert np.array_equal(heuristic(given), ranks)
    assert np.array_equal(heuristic.compute_score(given), scores)
    assert np.array_equal(heuristic.get_uncertainties(given), scores)

    batches = ([part[start : start + 7] for part in given] for start in range(0, 20, 7))
    assert np.array_equal(heuristic.get_ranks(batches)[0], ranks)


def test_probabilities_and_iterations(predictions: Any) -> None:
    z, h = (part.numpy() for part in predictions)
    p = predictions[0].softmax(1).numpy()
    ranks = FisherMaskHeuristic(4).get_ranks([z, h])[0]
    assert np.array_equal(FisherMaskHeuristic(4).get_ranks([p, h])[0], ranks)
    repeated = [np.repeat(part[..., None], 3, axis=-1) for part in (z, h)]
    assert np.array_equal(FisherMaskHeuristic(4).get_ranks(repeated)[0], ranks)


def test_mask(predictions: Any) -> None:
    given = [part.numpy() for part in predictions]
    mask = head_mask(given, 7)
    pool, known = [part[:20] for part in given], [part[20:] for part in given]
    fisher = labeled_fisher(known, mask=mask)
    assert fisher.shape == (7, 7)
    ranks = FisherMaskHeuristic(4, fisher, 10, mask=mask).get_ranks(pool)[0]
    numbers = FisherMaskHeuristic(4, fisher.numpy(), 10, mask=mask.numpy()).get_ranks(pool)[0]
    assert np.array_equal(ranks, numbers)
    alone = FisherMaskHeuristic(4, mask=7).get_ranks(given)[0]
    assert np.array_equal(alone, FisherMaskHeuristic(4, mask=mask).get_ranks(given)[0])
    assert head_mask(given, C * D).tolist() == list(range(C * D))


def test_the_loop_of_baal(generator: torch.Generator) -> None:
    x = torch.randn(40, 5, generator=generator)
    data = ActiveLearningDataset(TensorDataset(x, (x[:, 0] > 0).long()))
    data.label(list(range(6)))
    model = ModelWrapper(
        Network(),
        TrainingArgs(
            batch_size=8, workers=0, criterion=lambda out, y: nn.functional.cross_entropy(out[0], y)
        ),
    )
    for done in range(2):
        known = model.predict_on_dataset(data, iterations=1, verbose=False)
        heuristic = FisherMaskHeuristic(5, labeled_fisher(known), len(data))
        loop = ActiveLearningLoop(
            data, model.predict_on_dataset, heuristic, query_size=5, iterations=1, verbose=False
        )
        assert loop.step()
        assert len(data) == 6 + 5 * (done + 1)


def test_more_than_the_pool_holds(predictions: Any) -> None:
    given = [part[:3].numpy() for part in predictions]
    assert sorted(FisherMaskHeuristic(10).get_ranks(given)[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query_size": 0}, ValueError, "query_size must be at least 1"),
        ({"query_size": 1.5}, TypeError, "query_size must be an integer"),
        ({"n_labeled": 3}, ValueError, "belong together"),
        ({"labeled_fisher": torch.eye(12)}, ValueError, "belong together"),
        (
            {"labeled_fisher": torch.eye(7), "n_labeled": 3, "mask": np.int64(7)},
            ValueError,
            "must be the positions it was made with",
        ),
        ({"lamb": 0}, ValueError, "lamb"),
        ({"backward_steps": -1}, ValueError, "backward_steps"),
        ({"rank": 0}, ValueError, "rank"),
    ],
)
def test_bad_parameters(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FisherMaskHeuristic(**({"query_size": 4} | change))


@pytest.mark.parametrize(
    "given",
    [
        np.ones((4, 3, 1)),
        [np.ones((4, 3))],
        [],
        iter([]),
        iter([np.ones((4, 3, 1))]),
        iter([np.ones((2, 3, 1))]),
        iter([[np.ones((4, 3)), np.ones((4, 2))], [np.ones((4, 3))]]),
        [np.ones((0, 3)), np.ones((0, 2))],
        "both",
        None,
        [np.ones(4), np.ones(4)],
    ],
    ids=[
        "one kind",
        "one in a list",
        "nothing",
        "no batch",
        "batches",
        "pairs",
        "a batch of one kind",
        "empty",
        "text",
        "None",
        "flat",
    ],
)
def test_predictions_that_are_not_of_two_kinds(given: Any) -> None:
    with pytest.raises(ValueError, match="predictions must"):
        FisherMaskHeuristic(2).get_ranks(given)


def test_labeled_fisher_of_any_layout(predictions: Any) -> None:
    given = [part.numpy() for part in predictions]
    known = labeled_fisher(given).numpy()
    expected = FisherMaskHeuristic(4, known, 5).get_ranks(given)[0]
    frozen = known.copy()
    frozen.setflags(write=False)
    backwards = np.ascontiguousarray(known[::-1])[::-1]
    for same in (frozen, backwards, known.astype(">f8"), known.T):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = FisherMaskHeuristic(4, same, 5).get_ranks(given)[0]
        assert np.array_equal(found, expected)
    with pytest.raises(TypeError, match="labeled_fisher must be a Tensor or an array; got str"):
        FisherMaskHeuristic(4, "known", 5).get_ranks(given)  # type: ignore[arg-type]


def test_labeled_fisher_of_another_size(predictions: Any) -> None:
    given = [part.numpy() for part in predictions]
    with pytest.raises(ValueError, match=r"shape \(12, 12\).*got \(3, 3\)"):
        FisherMaskHeuristic(2, torch.eye(3), 5).get_ranks(given)
