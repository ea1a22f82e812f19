"""Classifiers of scikit-activeml, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("skactiveml")
pytest.importorskip("skorch")

from skactiveml.classifier import (  # noqa: E402
    ParzenWindowClassifier,
    SkorchClassifier,
)

from fishermask_fast.integrations.skactiveml import BaitQuery, FisherMaskQuery  # noqa: E402

STRATEGIES = (BaitQuery, FisherMaskQuery)
N_SAMPLES, N_LABELED = 30, 6

every = pytest.mark.parametrize("strategy", STRATEGIES)


class WithEmbeddings(ParzenWindowClassifier):
    """Gives what it reads as its embeddings when asked to."""

    def predict_proba(self, X: Any, embed: bool = False) -> Any:
        probabilities = super().predict_proba(X)
        return (probabilities, np.asarray(X) ** 2) if embed else probabilities


class Always(ParzenWindowClassifier):
    """Gives its embeddings unasked."""

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X), np.asarray(X) ** 2


class Network(nn.Module):
    """Gives logits, and the embeddings before them where wanted."""

    def __init__(self, outputs: str = "logits") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.outputs = outputs
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.body(x)
        z = self.head(h)
        if self.outputs == "logits":
            return z
        if self.outputs == "probabilities":
            return z.softmax(1)
        return (h, z) if self.outputs == "second" else (z, h)


def network(outputs: str = "logits", forward: Any = None, **more: Any) -> SkorchClassifier:
    return SkorchClassifier(
        module=Network,
        forward_outputs=forward,
        neural_net_param_dict={
            "module__outputs": outputs,
            "max_epochs": 2,
            "verbose": 0,
            "train_split": None,
            "lr": 0.1,
        },
        classes=[0, 1],
        **more,
    )


def data(missing: Any = np.nan, classes: Any = (0, 1), dtype: Any = float) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(N_SAMPLES, 3))
    y = np.full(N_SAMPLES, missing, dtype=dtype)
    labels = [classes[i % 2] for i in range(N_LABELED)]
    y[3 * np.arange(N_LABELED)] = labels
    return X, y


def parzen(**more: Any) -> ParzenWindowClassifier:
    return ParzenWindowClassifier(**({"classes": [0, 1], "random_state": 0} | more))


def unlabeled() -> Any:
    return np.setdiff1d(np.arange(N_SAMPLES), 3 * np.arange(N_LABELED))
