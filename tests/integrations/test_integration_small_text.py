"""small-text's own contract for query strategies, and the picks of the networks' gradients."""

from __future__ import annotations

import logging
import unittest
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("small_text")
transformers = pytest.importorskip("transformers")

from scipy.sparse import csr_matrix  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from small_text import (  # noqa: E402
    ConfidenceEnhancedLinearSVC,
    EmptyPoolException,
    PoolBasedActiveLearner,
    PoolExhaustedException,
    SklearnClassifier,
    SklearnDataset,
)
from small_text.integrations.pytorch.classifiers import KimCNNClassifier  # noqa: E402
from small_text.integrations.pytorch.classifiers.factories import KimCNNFactory  # noqa: E402
from small_text.integrations.pytorch.datasets import (  # noqa: E402
    PytorchTextClassificationDataset,
)
from small_text.integrations.transformers.classifiers.classification import (  # noqa: E402
    transformers_collate_fn,
)
from small_text.integrations.transformers.datasets import TransformersDataset  # noqa: E402

# The wheel installs its tests beside the package.
from tests.unit.small_text.query_strategies.test_strategies import (  # noqa: E402
    SamplingStrategiesTests,
)

from fishermask_fast import FisherMaskSelector, reference  # noqa: E402
from fishermask_fast.integrations.small_text import FisherMaskStrategy  # noqa: E402


class ContractTest(unittest.TestCase, SamplingStrategiesTests):  # type: ignore[misc]
    def _get_clf(self) -> Any:
        return SklearnClassifier(ConfidenceEnhancedLinearSVC(), 2)

    def _get_query_strategy(self) -> Any:
        return FisherMaskStrategy()

    def test_str(self) -> None:
        self.assertEqual(
            "FisherMaskStrategy(mask='global', fraction=None)", str(FisherMaskStrategy())
        )

    def test_labels_and_classifier_of_two_minds(self) -> None:
        with self.assertRaisesRegex(ValueError, "multi_label=True.*several.*multi_label=False"):
            FisherMaskStrategy().query(self._get_clf(), None, [0], [], csr_matrix((2, 2)), n=1)
        several = SklearnClassifier(ConfidenceEnhancedLinearSVC(), 2, multi_label=True)
        with self.assertRaisesRegex(ValueError, "multi_label=False.*one.*multi_label=True"):
            FisherMaskStrategy().query(several, None, [0], [], np.array([]), n=1)

    def test_empty_pool(self) -> None:
        with self.assertRaises(EmptyPoolException):
            FisherMaskStrategy().query(None, None, [], [], np.array([]), n=1)


class BaitContractTest(unittest.TestCase, SamplingStrategiesTests):  # type: ignore[misc]
    def _get_clf(self) -> Any:
        return SklearnClassifier(ConfidenceEnhancedLinearSVC(), 2)

    def _get_query_strategy(self) -> Any:
        return FisherMaskStrategy(mask="head", backward_steps=1)


VOCABULARY, LENGTH, N = 12, 9, 40


class Vocabulary:
    def __len__(self) -> int:
        return VOCABULARY


@pytest.fixture
def texts(generator: torch.Generator) -> PytorchTextClassificationDataset:
    tokens = torch.randint(VOCABULARY, (N, LENGTH), generator=generator)
    items = [(text, int(text.sum()) % 3) for text in tokens]
    return PytorchTextClassificationDataset(items, Vocabulary(), target_labels=np.arange(3))


def convolutional(**more: Any) -> dict[str, Any]:
    return {
        "embedding_matrix": torch.randn(VOCABULARY, 6),
        "num_epochs": 1,
        "max_seq_len": LENGTH,
        "out_channels": 4,
        "device": "cpu",
    } | more


@pytest.mark.parametrize(
    "strategy",
    [
        FisherMaskStrategy(fraction=0.5),
        FisherMaskStrategy(mask="head", backward_steps=1),
        FisherMaskStrategy(embeddings=True, head_entries=20),
    ],
    ids=["fishermask", "bait", "embeddings"],
)
def test_active_learner(strategy: Any, texts: Any) -> None:
    logging.disable(logging.INFO)
    learner = PoolBasedActiveLearner(KimCNNFactory("kimcnn", 3, convolutional()), strategy, texts)
    initial = np.arange(10)
    learner.initialize_data(initial, texts.y[initial])
    seen = set(initial.tolist())
    for _ in range(3):
        picks = learner.query(num_samples=10)
        assert len(picks) == 10 and not seen & set(picks.tolist())
        assert strategy.scores_ is not None and strategy.scores_.shape == (10,)
        seen |= set(picks.tolist())
        learner.update(texts.y[picks])
    assert seen == set(range(N))
    logging.disable(logging.NOTSET)


def test_picks_are_the_networks(texts: Any) -> None:
    clf = KimCNNClassifier(3, **convolutional())
    clf.fit(texts[np.arange(10)])
    clf.model.train()
    before = {name: value.clone() for name, value in clf.model.state_dict().items()}
    labeled, unlabeled = np.arange(10), np.arange(10, N)[::-1].copy()
    found = FisherMaskStrategy(mask="head").query(
        clf, texts, unlabeled, labeled, texts.y[labeled], n=5
    )
    tokens = torch.stack(texts.x)
    selection = FisherMaskSelector(clf.model, mask="head").query(
        tokens[unlabeled], 5, tokens[labeled], progress=False
    )
    assert found.tolist() == unlabeled[selection.indices.numpy()].tolist()
    assert clf.model.training
    after = clf.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class TinyTransformer:
    """What the strategy reads of small-text's TransformerBasedClassification."""

    mini_batch_size = 8

    def __init__(self) -> None:
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=LENGTH, num_labels=3,
        )  # fmt: skip
        self.model = transformers.BertForSequenceClassification(config)

    def _create_collate_fn(self) -> Any:
        return transformers_collate_fn


def test_transformers_see_the_attention_mask(generator: torch.Generator) -> None:
    tokens = torch.randint(1, VOCABULARY, (N, 1, LENGTH), generator=generator)
    masks = (torch.arange(LENGTH) < torch.randint(3, LENGTH, (N, 1, 1), generator=generator)).long()
    data = TransformersDataset(
        [(t, m, 0) for t, m in zip(tokens, masks, strict=True)], target_labels=np.arange(3)
    )
    clf = TinyTransformer()
    labeled, unlabeled = np.arange(5), np.arange(5, N)
    found = FisherMaskStrategy(fraction=0.1).query(clf, data, unlabeled, labeled, np.zeros(5), n=6)
    items = [
        {"input_ids": t[0], "attention_mask": m[0]} for t, m in zip(tokens, masks, strict=True)
    ]
    selector = FisherMaskSelector(clf.model, fraction=0.1)
    # The strategy draws the mask's samples from pool and labeled together.
    selector.mask = selector.make_mask([items[i] for i in (*unlabeled, *labeled)])  # type: ignore[arg-type]
    selection = selector.query(
        [items[i] for i in unlabeled],  # type: ignore[arg-type]
        6,
        [items[i] for i in labeled],  # type: ignore[arg-type]
        progress=False,
    )
    assert found.tolist() == unlabeled[selection.indices.numpy()].tolist()


def test_lists_of_indices(texts: Any) -> None:
    clf = KimCNNClassifier(3, **convolutional())
    clf.fit(texts)
    strategy = FisherMaskStrategy(mask="head")
    assert len(strategy.query(clf, texts, [3, 1, 30], [], np.array([]), n=2)) == 2
    with pytest.raises(PoolExhaustedException):
        strategy.query(clf, texts, [3, 1], [], np.array([]), n=3)


def test_classifier_without_a_model(texts: Any) -> None:
    clf = KimCNNClassifier(3, **convolutional())
    with pytest.raises(ValueError, match="KimCNNClassifier was not fitted"):
        FisherMaskStrategy().query(clf, texts, np.arange(5), [], np.array([]), n=2)


def test_probabilities_that_a_classifier_keeps() -> None:
    class Keeping:
        probabilities = np.full((10, 3), 0.3)

        def predict_proba(self, data: Any) -> Any:
            return self.probabilities

        def embed(self, data: Any) -> Any:
            return np.eye(10)

    dataset = SklearnDataset(np.eye(10), np.zeros(10, dtype=int), target_labels=np.arange(3))
    clf = Keeping()
    FisherMaskStrategy().query(clf, dataset, np.arange(8), np.arange(8, 10), np.zeros(2), n=3)
    assert (clf.probabilities == 0.3).all()


def test_classifier_without_features(texts: Any) -> None:
    clf = SklearnClassifier(ConfidenceEnhancedLinearSVC(), 3)
    clf.predict_proba = lambda data: np.full((len(data), 3), 1 / 3)
    with pytest.raises(ValueError, match="neither a network nor embeddings"):
        FisherMaskStrategy().query(
            clf, TransformersDataset([(torch.zeros(1, 2, 2), None, 0)] * 4), [0, 1], [], None, n=1
        )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fraction": 0}, ValueError),
        ({"fraction": 1.5}, ValueError),
        ({"mask": "best"}, ValueError),
        ({"keep_head": 1}, TypeError),
        ({"embeddings": None}, TypeError),
        ({"head_entries": 0}, ValueError),
        ({"backward_steps": -1}, ValueError),
        ({"fisher_samples": 1.5}, TypeError),
        ({"seed": "x"}, TypeError),
        ({"rank": 0}, ValueError),
        ({"lamb": 0}, ValueError),
    ],
)
def test_bad_parameters(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(change))):
        FisherMaskStrategy(**change)


def several_labels(n: int, generator: torch.Generator) -> Any:
    return csr_matrix((torch.rand(n, 3, generator=generator) < 0.5).int().numpy())


def test_several_labels_of_a_network(generator: torch.Generator) -> None:
    tokens = torch.randint(VOCABULARY, (N, LENGTH), generator=generator)
    labels = several_labels(N, generator)
    items = [(text, labels[i].indices) for i, text in enumerate(tokens)]
    data = PytorchTextClassificationDataset(
        items, Vocabulary(), multi_label=True, target_labels=np.arange(3)
    )
    clf = KimCNNClassifier(3, multi_label=True, **convolutional())
    clf.fit(data)
    pool, labeled = np.arange(10, N), np.arange(10)
    strategy = FisherMaskStrategy(fraction=0.5)
    picks = strategy.query(clf, data, pool, labeled, labels[:10], n=5)
    expected = FisherMaskSelector(clf.model, fraction=0.5, likelihood="bernoulli").query(
        tokens[10:], 5, tokens[:10], progress=False
    )
    assert picks.tolist() == (expected.indices + 10).tolist()


def test_several_labels_of_features(generator: torch.Generator) -> None:
    features = torch.randn(N, 4, dtype=torch.float64, generator=generator).numpy()
    labels = several_labels(N, generator)
    data = SklearnDataset(features, labels, target_labels=np.arange(3))
    clf = SklearnClassifier(LogisticRegression(), 3, multi_label=True)
    clf.fit(data)
    pool, labeled = np.arange(10, N), np.arange(10)
    strategy = FisherMaskStrategy(mask="head", backward_steps=1)
    picks = strategy.query(clf, data, pool, labeled, labels[:10], n=5)
    p = torch.from_numpy(np.asarray(clf.predict_proba(data)))
    scale = torch.diag_embed((p * (1 - p)).sqrt())
    v = torch.einsum("nrc,nd->nrcd", scale, torch.from_numpy(features)).flatten(2)
    known = v[:10]
    expected, _ = reference.select(
        v[10:],
        5,
        (v.mT @ v).mean(0),
        (known.mT @ known).mean(0),
        n_labeled=10,
        backward_steps=1,
    )
    assert picks.tolist() == [10 + i for i in expected]
