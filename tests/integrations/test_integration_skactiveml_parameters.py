"""Parameters of the strategies for scikit-activeml that cannot be."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")

from skactiveml_classifiers import (
    N_SAMPLES,
    STRATEGIES,
    data,
    every,
    parzen,
)  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402

from fishermask_fast.integrations.skactiveml import FisherMaskQuery  # noqa: E402


class Dummy:
    pass


BAD_QUERY: list[tuple[str, Any, Any]] = [
    ("X", "string", (TypeError, ValueError)),
    ("X", Dummy, (TypeError, ValueError)),
    ("X", np.ones((2 * N_SAMPLES, 3)), ValueError),
    ("X", np.full((N_SAMPLES, 3), np.nan), ValueError),
    ("X", np.ones((0, 3)), ValueError),
    ("y", np.nan, TypeError),
    ("y", Dummy, TypeError),
    ("y", np.full((2, N_SAMPLES), np.nan), ValueError),
    ("clf", np.nan, TypeError),
    ("clf", "state", TypeError),
    ("clf", Dummy(), TypeError),
    ("clf", GaussianNB(), TypeError),
    ("clf", parzen(missing_label="nothing"), (TypeError, ValueError)),
    ("fit_clf", np.nan, TypeError),
    ("fit_clf", "state", TypeError),
    ("sample_weight", Dummy, (TypeError, ValueError)),
    ("sample_weight", np.nan, (TypeError, ValueError)),
    ("candidates", np.nan, ValueError),
    ("candidates", Dummy, TypeError),
    ("candidates", [N_SAMPLES], (ValueError, IndexError)),
    ("candidates", np.ones((4, 5)), ValueError),
    ("batch_size", 0, ValueError),
    ("batch_size", 1.2, TypeError),
    ("return_utilities", "string", TypeError),
    ("return_utilities", Dummy, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_QUERY)
@every
def test_bad_query_parameters(strategy: Any, name: str, value: Any, error: Any) -> None:
    X, y = data()
    with pytest.raises(error), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy().query(**({"X": X, "y": y, "clf": parzen()} | {name: value}))


BAD_INIT: list[tuple[str, Any, Any]] = [
    ("random_state", np.nan, ValueError),
    ("random_state", "state", ValueError),
    ("missing_label", Dummy, TypeError),
    ("clf_embedding_flag_name", 1, TypeError),
    ("lamb", 0, ValueError),
    ("lamb", "one", TypeError),
    ("lamb", True, TypeError),
    ("lamb", np.nan, ValueError),
    ("backward_steps", -1, ValueError),
    ("backward_steps", 0.5, TypeError),
    ("rank", 0, ValueError),
    ("rank", 3, ValueError),
    ("rank", "full", TypeError),
    ("bias", 1, TypeError),
    ("prior_precision", 0, ValueError),
    ("prior_precision", "one", TypeError),
    ("criterion", "D", ValueError),
    ("preset", "best", ValueError),
    ("rows", "one", ValueError),
    ("eval_weights", "all", ValueError),
    ("eval_weights", [1.0], TypeError),
    ("class_weight", "scarce", ValueError),
    ("max_per_cluster", 0, ValueError),
]
BAD_FISHER_MASK: list[tuple[str, Any, Any]] = [
    ("fraction", 0, ValueError),
    ("fraction", 1.5, ValueError),
    ("fraction", "all", TypeError),
    ("n_parameters", 0, ValueError),
    ("n_parameters", 1.5, TypeError),
    ("head", 3, TypeError),
    ("mask", "best", ValueError),
    ("mask", None, ValueError),
    ("keep_head", "yes", TypeError),
    ("head_entries", 0, ValueError),
    ("head_entries", 2.5, TypeError),
    ("fisher_samples", 0, ValueError),
    ("fisher_samples", None, TypeError),
]
CASES = [(strategy, *case) for strategy in STRATEGIES for case in BAD_INIT]
CASES += [(FisherMaskQuery, *case) for case in BAD_FISHER_MASK]


@pytest.mark.parametrize(("strategy", "name", "value", "error"), CASES)
def test_bad_init_parameters(strategy: Any, name: str, value: Any, error: Any) -> None:
    X, y = data()
    query = strategy(**{name: value})  # stored as given, judged by the query
    with pytest.raises(error):
        query.query(X, y, parzen())


def test_every_init_parameter_has_a_bad_value() -> None:
    tried = {name for _, name, _, _ in CASES}
    for strategy in STRATEGIES:
        assert set(inspect.signature(strategy).parameters) <= tried
