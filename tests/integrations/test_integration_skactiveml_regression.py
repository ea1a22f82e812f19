"""scikit-activeml's regressors: its contract, and the picks of the closed form."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fishermask_fast import FisherMaskSelector, reference

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")

from skactiveml.pool import GreedySamplingTarget  # noqa: E402
from skactiveml.regressor import SklearnRegressor, SkorchRegressor  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import Ridge  # noqa: E402

from fishermask_fast.integrations.skactiveml_regression import (  # noqa: E402
    BaitRegressorQuery,
    FisherMaskRegressorQuery,
)

N, LABELED = 40, 8
every = pytest.mark.parametrize("strategy", [BaitRegressorQuery, FisherMaskRegressorQuery])


class Network(nn.Module):
    def __init__(self, embedding_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding_first = embedding_first
        self.body, self.head = nn.Linear(3, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.body(x).tanh()
        return (h, self.head(h)) if self.embedding_first else self.head(h)


def network(embedding_first: bool = False) -> SkorchRegressor:
    return SkorchRegressor(
        module=Network,
        forward_outputs={"y": (1, torch.ravel)} if embedding_first else None,
        neural_net_param_dict={
            "module__embedding_first": embedding_first,
            "max_epochs": 2,
            "verbose": 0,
            "train_split": None,
        },
        random_state=0,
    )


def data() -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(N, 3)).astype(np.float32)
    y = np.full(N, np.nan)
    y[:LABELED] = X[:LABELED, 0] + 0.1 * generator.normal(size=LABELED)
    return X, y


def closed_form(v: torch.Tensor, n: int, backward_steps: int) -> list[int]:
    known = v[:LABELED]
    picks, _ = reference.select(
        v[LABELED:],
        n,
        (v.mT @ v).mean(0),
        (known.mT @ known).mean(0),
        n_labeled=LABELED,
        backward_steps=backward_steps,
    )
    return [LABELED + i for i in picks]


@every
def test_is_a_regression_strategy_of_the_framework(strategy: Any) -> None:
    ours = inspect.signature(strategy.query).parameters
    named = [name for name, each in ours.items() if each.kind is each.KEYWORD_ONLY]
    assert list(ours) == list(inspect.signature(GreedySamplingTarget.query).parameters)[:4] + [
        "fit_reg",
        "sample_weight",
        "candidates",
        "batch_size",
        "return_utilities",
        *named,
    ]
    assert named == ["eval_data", "gain_weights", "pending", "exclude", "cluster_ids"]
    options = strategy().get_params()
    assert "rank" not in options and "clf_embedding_flag_name" not in options
    assert clone(strategy(lamb=0.3)).lamb == 0.3


@every
@pytest.mark.parametrize("bias", [False, True])
def test_any_regressor_by_v_optimal_design(strategy: Any, bias: bool) -> None:
    X, y = data()
    query = strategy(bias=bias)
    picks, utilities = query.query(
        X, y, SklearnRegressor(Ridge()), batch_size=6, return_utilities=True
    )
    h = torch.from_numpy(X).double()
    h = torch.cat([h, torch.ones(N, 1).double()], 1) if bias else h
    assert picks.tolist() == closed_form(h[:, None], 6, query.backward_steps)
    assert utilities.shape == (6, N)
    assert np.isnan(utilities[:, :LABELED]).all()


@pytest.mark.parametrize("embedding_first", [False, True])
@every
def test_a_module_by_its_own_gradients(strategy: Any, embedding_first: bool) -> None:
    X, y = data()
    reg = network(embedding_first).fit(X, y)
    options = {"fraction": 0.5, "mask": "per_layer"} if "Mask" in strategy.__name__ else {}
    query = strategy(random_state=0, **options)
    picks = query.query(X, y, reg, fit_reg=False, batch_size=6)
    module = Network()
    module.load_state_dict(reg.neural_net_.module_.state_dict())
    selector = FisherMaskSelector(
        module,
        likelihood="gaussian",
        backward_steps=query.backward_steps,
        **(options or {"mask": "head"}),
    )
    expected = selector.query(
        torch.from_numpy(X[LABELED:]), 6, torch.from_numpy(X[:LABELED]), progress=False
    )
    assert picks.tolist() == (LABELED + expected.indices).tolist()


@every
def test_bad_arguments(strategy: Any) -> None:
    X, y = data()
    with pytest.raises(TypeError, match="reg"):
        strategy().query(X, y, Ridge())
    with pytest.raises(NotFittedError, match="fit_reg=False"):
        strategy().query(X, y, network(), fit_reg=False)
