"""The contract of scikit-activeml's pool query strategies, and the picks of the formula."""

from __future__ import annotations

import inspect
import runpy
import sys
import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fishermask_fast import FisherMask, masked_gradients, reference

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")

from skactiveml.base import SingleAnnotatorPoolQueryStrategy  # noqa: E402
from skactiveml.classifier import (  # noqa: E402
    ParzenWindowClassifier,
    SklearnClassifier,
)
from skactiveml_classifiers import (
    N_LABELED,
    N_SAMPLES,
    Always,
    WithEmbeddings,
    data,
    every,
    network,
    parzen,
    unlabeled,
)  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from fishermask_fast.integrations.skactiveml import BaitQuery, FisherMaskQuery  # noqa: E402


@every
def test_is_a_pool_strategy_of_the_framework(strategy: Any) -> None:
    assert issubclass(strategy, SingleAnnotatorPoolQueryStrategy)
    for name in inspect.signature(strategy).parameters:
        marker = object()
        assert getattr(strategy(**{name: marker}), name) is marker
    assert clone(strategy(lamb=0.5)).get_params()["lamb"] == 0.5


CLASSIFIERS: dict[str, Any] = {
    "features": lambda: (parzen(), None),
    "flag": lambda: (WithEmbeddings(classes=[0, 1]), "embed"),
    "flags": lambda: (WithEmbeddings(classes=[0, 1]), {"embed": True}),
    "unasked": lambda: (Always(classes=[0, 1]), None),
    "sklearn": lambda: (SklearnClassifier(LogisticRegression(), classes=[0, 1]), None),
    "module": lambda: (network(), None),
    "module with embeddings": lambda: (
        network("both", {"proba": (0, nn.Softmax(dim=-1)), "emb": (1, None)}),
        {"extra_outputs": "emb"},
    ),
    "module, logits second": lambda: (
        network("second", {"proba": (1, nn.Softmax(dim=-1)), "emb": (0, None)}),
        None,
    ),
}


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
@every
def test_every_kind_of_classifier(strategy: Any, make: Any) -> None:
    clf, flag = make()
    X, y = data()
    query = strategy(clf_embedding_flag_name=flag, random_state=0)
    if strategy is FisherMaskQuery:
        query.set_params(fraction=0.8)
    before = deepcopy((X, y)), repr(clf.get_params())
    indices, utilities = query.query(X, y, clf, batch_size=4, return_utilities=True)
    assert np.array_equal(X, before[0][0]) and np.array_equal(y, before[0][1], equal_nan=True)
    assert repr(clf.get_params()) == before[1] and not hasattr(clf, "classes_")
    assert isinstance(indices, np.ndarray) and indices.dtype.kind == "i"
    assert len(set(indices.tolist())) == 4 and set(indices.tolist()) <= set(unlabeled().tolist())
    assert utilities.shape == (4, N_SAMPLES)
    for row in range(4):
        shown = np.setdiff1d(unlabeled(), indices[:row])
        assert np.array_equal(np.flatnonzero(~np.isnan(utilities[row])), shown)
        assert (utilities[row][shown] >= 0).all()
        if strategy is FisherMaskQuery:
            assert np.isclose(utilities[row, indices[row]], np.nanmax(utilities[row]), rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 1])
def test_picks_are_those_of_the_formula(steps: int) -> None:
    X, y = data()
    clf = WithEmbeddings(classes=[0, 1]).fit(X, y)
    probabilities, embeddings = clf.predict_proba(X, embed=True)
    p, h = torch.from_numpy(probabilities), torch.from_numpy(embeddings)
    rows = p.sqrt()[:, :, None] * (torch.eye(2) - p[:, None, :])
    v = (rows[..., None] * h[:, None, None, :]).flatten(2)
    labeled = v[3 * np.arange(N_LABELED)]
    expected, scores = reference.select(
        v[unlabeled()],
        5,
        torch.einsum("nrk,nrl->kl", v, v) / len(v),
        torch.einsum("nrk,nrl->kl", labeled, labeled) / len(labeled),
        lamb=0.3,
        n_labeled=N_LABELED,
        backward_steps=steps,
    )
    query = BaitQuery("embed", lamb=0.3, backward_steps=steps)
    found, utilities = query.query(X, y, clf, False, batch_size=5, return_utilities=True)
    assert found.tolist() == unlabeled()[expected].tolist()
    if steps == 0:
        picked = utilities[np.arange(5), found]
        assert np.allclose(picked, scores, rtol=1e-9)


def test_module_gradients_are_the_modules_own() -> None:
    X, y = data()
    clf = network().fit(X, y)
    module = clf.neural_net_.module_
    samples = torch.from_numpy(X.astype(np.float32))
    mask = FisherMask.head(module, inputs=samples[:1])
    v = masked_gradients(module, samples, mask).dense().double()
    labeled = v[3 * np.arange(N_LABELED)]
    expected, _ = reference.select(
        v[unlabeled()],
        4,
        torch.einsum("nrk,nrl->kl", v, v) / len(v),
        torch.einsum("nrk,nrl->kl", labeled, labeled) / len(labeled),
        n_labeled=N_LABELED,
        backward_steps=1,
    )
    state = deepcopy(module.state_dict())
    mode = module.training
    found = BaitQuery().query(X, y, clf, fit_clf=False, batch_size=4)
    assert found.tolist() == unlabeled()[expected].tolist()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert module.training == mode and all(p.requires_grad for p in module.parameters())


def test_logits_are_found_where_the_module_has_them() -> None:
    X, y = data()
    softmax = nn.Softmax(dim=-1)
    kinds = [
        network(),
        network("second", {"proba": (1, softmax), "emb": (0, None)}),
        network("probabilities", {"proba": (0, None)}),
    ]
    fitted = [clf.initialize() for clf in kinds]
    for clf in fitted[1:]:
        clf.neural_net_.module_.load_state_dict(fitted[0].neural_net_.module_.state_dict())
    for clf in fitted:
        clf.fit(X, np.full(len(y), np.nan))
        clf.neural_net_.module_.load_state_dict(fitted[0].neural_net_.module_.state_dict())
    found = [BaitQuery().query(X, y, clf, False, batch_size=5).tolist() for clf in fitted]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("missing", "classes", "dtype"),
    [
        (np.nan, [1.0, 2.0], float),
        (0, [1, 2], int),
        (None, [1, 2], object),
        (None, ["A", "B"], object),
        ("", ["A", "B"], str),
    ],
)
@every
def test_every_kind_of_label(strategy: Any, missing: Any, classes: Any, dtype: Any) -> None:
    X, y = data(missing, classes, "U1" if dtype is str else dtype)
    clf = parzen(classes=classes, missing_label=missing)
    query = strategy(missing_label=missing, random_state=0)
    found = query.query(X, y, clf, batch_size=3)
    plain = strategy(random_state=0).query(*data(), parzen(), batch_size=3)
    assert found.tolist() == plain.tolist()


@pytest.mark.parametrize("labeled", [0, 1, N_SAMPLES - 1])
@pytest.mark.parametrize("make", [parzen, network], ids=["parzen", "module"])
@every
def test_any_number_of_labels(strategy: Any, make: Any, labeled: int) -> None:
    X, _ = data()
    y = np.full(N_SAMPLES, np.nan)
    y[:labeled] = 0  # a single class
    query = strategy(random_state=0)
    if strategy is FisherMaskQuery:
        query.set_params(fraction=0.8)
    indices, utilities = query.query(X, y, make(), return_utilities=True)
    assert len(indices) == 1 and indices[0] >= labeled
    assert np.isnan(utilities[0]).sum() == labeled


@every
def test_a_single_class_says_nothing(strategy: Any) -> None:
    X, y = data(classes=(1, 1))
    indices, utilities = strategy().query(
        X, y, ParzenWindowClassifier(), batch_size=3, return_utilities=True
    )
    assert len(set(indices.tolist())) == 3
    assert (utilities[0][unlabeled()] == 0).all()


@every
def test_candidates(strategy: Any) -> None:
    X, y = data()
    query = strategy(random_state=0)
    settings: dict[str, Any] = {"batch_size": 4, "return_utilities": True}
    indices, utilities = query.query(X, y, parzen(), **settings)
    again, same = query.query(X, y, parzen(), candidates=unlabeled(), **settings)
    assert np.array_equal(indices, again)
    assert np.allclose(utilities, same, equal_nan=True)

    within, own = query.query(X, y, parzen(), candidates=X[unlabeled()], **settings)
    assert np.array_equal(unlabeled()[within], indices)
    assert own.shape == (4, len(unlabeled()))
    assert np.allclose(utilities[:, unlabeled()], own, equal_nan=True)

    few = unlabeled()[[5, 2, 9]]
    picks, values = query.query(X, y, parzen(), candidates=few.tolist(), batch_size=2,
                                return_utilities=True)  # fmt: skip
    assert set(picks.tolist()) <= set(few.tolist())
    assert set(np.flatnonzero(~np.isnan(values[0]))) == set(few.tolist())

    labeled = query.query(X, y, parzen(), candidates=[0, 3])
    assert labeled[0] in (0, 3)


@every
def test_batch_larger_than_the_candidates(strategy: Any) -> None:
    X, y = data()
    total = len(unlabeled())
    with pytest.warns(UserWarning, match="larger than number of candidates"):
        indices, utilities = strategy(backward_steps=0).query(
            X, y, parzen(), batch_size=total + 1, return_utilities=True
        )
    assert sorted(indices.tolist()) == unlabeled().tolist()
    assert utilities.shape == (total, N_SAMPLES)


@every
def test_no_candidates(strategy: Any) -> None:
    X, _ = data()
    y = np.arange(N_SAMPLES) % 2
    with pytest.warns(UserWarning, match="larger than number of candidates"):
        indices, utilities = strategy(missing_label=-1).query(
            X, y, parzen(missing_label=-1), return_utilities=True
        )
    assert indices.shape == (0,) and utilities.shape == (0, N_SAMPLES)


@pytest.mark.parametrize("make", [parzen, network], ids=["parzen", "module"])
@every
def test_repeatable(strategy: Any, make: Any) -> None:
    X, y = data()
    for state in (3, np.random.RandomState(0)):
        query = strategy(random_state=state)
        if strategy is FisherMaskQuery:
            query.set_params(fraction=0.8, mask="random", fisher_samples=5)
        clf = make().fit(X, y)
        settings: dict[str, Any] = {"fit_clf": False, "batch_size": 3, "return_utilities": True}
        global_state = np.random.get_state()[1].tolist(), torch.get_rng_state()
        first, utilities = query.query(X, y, clf, **settings)
        second, same = query.query(X, y, clf, **settings)
        assert np.array_equal(first, second)
        assert np.allclose(utilities, same, equal_nan=True)
        assert np.random.get_state()[1].tolist() == global_state[0]
        assert torch.equal(torch.get_rng_state(), global_state[1])


@every
def test_sample_weight(strategy: Any) -> None:
    X, y = data()
    weights = np.ones(N_SAMPLES)
    plain = strategy().query(X, y, parzen(), batch_size=3)
    found = strategy().query(X, y, parzen(), sample_weight=weights, batch_size=3)
    assert found.tolist() == plain.tolist()
    with pytest.raises((TypeError, ValueError)):
        strategy().query(X, y, parzen(), sample_weight=np.ones(N_SAMPLES + 1))


@pytest.mark.parametrize("make", [parzen, network], ids=["parzen", "module"])
@every
def test_classifier_that_was_not_fitted(strategy: Any, make: Any) -> None:
    X, y = data()
    clf = make()
    before = list(vars(clf))
    with pytest.raises(NotFittedError):
        strategy().query(X, y, clf, fit_clf=False)
    assert list(vars(clf)) == before


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
@every
def test_lists_and_dtypes(strategy: Any, dtype: str) -> None:
    X, y = data()
    X = (X if dtype[0] == "f" else 10 * X).astype(dtype)
    expected = strategy().query(X, y, parzen(), batch_size=3)
    found = strategy().query(X.tolist(), y.tolist(), parzen(), batch_size=3)
    assert found.tolist() == expected.tolist()


def test_a_modules_samples_in_any_layout() -> None:
    x, y = data()
    x = x.astype(np.float32)
    clf = network().fit(x, y)
    expected = BaitQuery().query(x, y, clf, fit_clf=False, batch_size=3)
    frozen = x.copy()
    frozen.setflags(write=False)
    for same in (frozen, np.ascontiguousarray(x[::-1])[::-1]):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="The given NumPy array")
            found = BaitQuery().query(same, y, clf, fit_clf=False, batch_size=3)
        assert np.array_equal(found, expected)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skactiveml.utils", None)
    with pytest.raises(ImportError, match="needs scikit-activeml 1.0: pip install"):
        runpy.run_path(str(inspect.getsourcefile(BaitQuery)))


def test_images_without_embeddings_are_read_flat() -> None:
    X, y = data()
    images = np.repeat(X[:, :, None], 2, axis=2)

    class Flat(ParzenWindowClassifier):
        def fit(self, X: Any, y: Any) -> Any:
            return super().fit(np.asarray(X).reshape(len(X), -1), y)

        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(np.asarray(X).reshape(len(X), -1))

    assert len(BaitQuery().query(images, y, Flat(classes=[0, 1]), batch_size=2)) == 2
