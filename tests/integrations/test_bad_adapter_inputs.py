"""Bad values for every parameter of the adapters, generated from their signatures."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np
import pytest
from bad_values import BAD, brief

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")
pytest.importorskip("small_text")

from skactiveml_classifiers import data, parzen, unlabeled  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from small_text import SklearnClassifier, SklearnDataset  # noqa: E402

import fishermask_fast  # noqa: E402
from fishermask_fast.integrations.skactiveml import BaitQuery, FisherMaskQuery  # noqa: E402
from fishermask_fast.integrations.small_text import FisherMaskStrategy  # noqa: E402

OURS = str(Path(fishermask_fast.__file__).parent)
KINDS = {
    "fraction": "fraction",
    "n_parameters": "count",
    "mask": "choice",
    "keep_head": "flag",
    "embeddings": "flag",
    "bias": "flag",
    "head_entries": "count",
    "fisher_samples": "count",
    "lamb": "positive",
    "backward_steps": "size",
    "rank": "count",
    "seed": "seed",
    "prior_precision": "positive",
    "criterion": "choice",
    "preset": "choice",
    "rows": "choice",
    "class_weight": "choice",
    "max_per_cluster": "count",
}
OPTIONAL = (
    "fraction", "n_parameters", "rank", "lamb", "prior_precision", "class_weight", "max_per_cluster"
)  # fmt: skip
# The framework's own, which it checks itself, and names that only a network of that name has.
THEIRS = ("eval_weights", "missing_label", "random_state", "clf_embedding_flag_name", "head")


def of_scikit_activeml(strategy: Any) -> Any:
    x, y = data()
    return strategy.query(x, y, parzen(), candidates=unlabeled())


def of_small_text(strategy: Any) -> Any:
    x, y = data()
    labels = np.nan_to_num(y).astype(int)
    known, pool = np.arange(6), np.arange(6, len(x))
    classifier = SklearnClassifier(LogisticRegression(), 2)
    labels[:6] = [0, 1] * 3
    samples = SklearnDataset(x, labels, target_labels=np.arange(2))
    classifier.fit(samples[known])
    return strategy.query(classifier, samples, pool, known, labels[known], n=2)


CASES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "FisherMaskQuery": (FisherMaskQuery, of_scikit_activeml),
    "BaitQuery": (BaitQuery, of_scikit_activeml),
    "FisherMaskStrategy": (FisherMaskStrategy, of_small_text),
}


def bad_values(strategy: Any) -> Iterator[tuple[str, Any]]:
    for name in inspect.signature(strategy).parameters:
        for value in BAD[KINDS[name]]() if name not in THEIRS else ():
            if value is not None or name not in OPTIONAL:
                yield name, value


@pytest.mark.parametrize("case", CASES)
def test_bad_parameters_are_refused_in_our_words(case: str) -> None:
    strategy, query = CASES[case]
    query(strategy())
    faults = []
    for name, value in bad_values(strategy):
        shown = f"{case}({name}={brief(value)})"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                query(strategy(**{name: value}))
        except (TypeError, ValueError) as error:
            frame = extract_tb(error.__traceback__)[-1]
            if name not in str(error):
                faults.append(f"{shown}: does not name it: {error!r}")
            elif not frame.filename.startswith(OURS) and "skactiveml" not in frame.filename:
                faults.append(f"{shown}: raised by {frame.filename}: {error!r}")
        except Exception as error:
            faults.append(f"{shown}: {error!r}")
        else:
            faults.append(f"{shown}: accepted")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "pool", [[0.5, 3.0], [[6, 7]], [6, 99], [-1, 7], ["6", "7"], [True, False], [6, None]], ids=str
)
def test_indices_that_are_none(pool: Any) -> None:
    x, _ = data()
    labels = np.array([0, 1] * (len(x) // 2))
    samples = SklearnDataset(x, labels, target_labels=np.arange(2))
    classifier = SklearnClassifier(LogisticRegression(), 2)
    classifier.fit(samples)
    with pytest.raises((TypeError, ValueError), match="indices_unlabeled"):
        FisherMaskStrategy().query(classifier, samples, pool, [], labels[:0], n=1)
