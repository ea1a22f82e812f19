"""Options of a selector on a model of its own, and what the definition takes for them."""

from __future__ import annotations

from typing import Any

import torch
from pools import picks
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fishermask_fast import FisherMask, FisherMaskSelector, masked_gradients, reference

N, N_LABELED, WIDTH, CLASSES, K = 150, 12, 6, 4, 8


class Setting:
    """A head on its inputs, of a pool that is not where the model will be used."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(WIDTH, CLASSES).double()
        with torch.no_grad():
            self.model.weight.mul_(0.5)
            self.model.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
        torch.manual_seed(0)
        size = torch.logspace(0.7, -0.5, WIDTH, dtype=torch.float64)
        self.pool = torch.randn(N, WIDTH, dtype=torch.float64) * size
        self.labeled = torch.randn(N_LABELED, WIDTH, dtype=torch.float64) * size
        self.deployed = torch.randn(50, WIDTH, dtype=torch.float64) * size.flip(0) ** 2
        self.labels = torch.tensor([0] * 9 + [1, 1, 2])
        self.mask = FisherMask.head(self.model)

    def rows(self, data: Tensor, **options: Any) -> Tensor:
        return masked_gradients(self.model, data, self.mask, **options).dense()

    def probabilities(self, data: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(data).softmax(1)

    def query(self, parameters: dict[str, Any], arguments: dict[str, Any]) -> list[int]:
        selector = FisherMaskSelector(self.model, mask="head", backward_steps=1, **parameters)
        labeled = TensorDataset(self.labeled, self.labels)
        return picks(selector.query(self.pool, K, labeled, progress=False, **arguments))

    def defined(
        self,
        fisher: Tensor | None = None,
        rows: str = "all",
        **options: Any,
    ) -> list[int]:
        v, known = self.rows(self.pool, rows=rows), self.rows(self.labeled, rows=rows)
        every = torch.cat([v, known])
        if fisher is None:
            fisher = reference.target_fisher(every, torch.ones(len(every)))
        labeled = reference.target_fisher(known, torch.ones(len(known)))
        options = {"n_labeled": N_LABELED, "backward_steps": 1} | options
        return reference.select(v, K, fisher, labeled, **options)[0]


def aimed_at(setting: Setting, data: Tensor, weights: Tensor) -> Tensor:
    return reference.target_fisher(setting.rows(data), weights)


def case(setting: Setting, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters and arguments of a query, and what the definition takes for them."""
    usual = setting.defined()
    p = setting.probabilities(setting.pool)
    balanced = reference.balanced_weights(p)
    uncovered = reference.uncovered_weights(setting.pool, setting.labeled)
    counts = torch.tensor([9.0, 2.0, 1.0, 0.0])
    some = torch.arange(50).double()
    clusters = torch.arange(N)
    clusters[usual] = N
    sums = 1e-4
    alike = aimed_at(setting, setting.pool, balanced)
    return {
        "prior_precision": ({"prior_precision": sums}, {}, {"prior_precision": sums}),
        "eval_data": (
            {},
            {"eval_data": setting.deployed},
            {"fisher": aimed_at(setting, setting.deployed, torch.ones(50))},
        ),
        "eval_data as factors": (
            {"eval_weights": some},
            {"eval_data": masked_gradients(setting.model, setting.deployed, setting.mask)},
            {"fisher": aimed_at(setting, setting.deployed, some)},
        ),
        "balanced": (
            {"eval_weights": "balanced"},
            {},
            {"fisher": alike},
        ),
        "recommended": (
            {"preset": "recommended"},
            {},
            {"fisher": alike, "lamb": reference.auto_prior(alike, False)},
        ),
        "recommended in sums": (
            {"preset": "recommended", "prior_precision": sums},
            {},
            {"fisher": alike, "prior_precision": sums},
        ),
        "uncovered": (
            {"eval_weights": "uncovered"},
            {},
            {"fisher": aimed_at(setting, setting.pool, uncovered)},
        ),
        "class_weight": (
            {"class_weight": "balanced"},
            {},
            {"gain_weights": reference.class_weights(p, counts)},
        ),
        "class_weight and costs": (
            {"class_weight": "balanced"},
            {"gain_weights": 1 + clusters, "labels": setting.labels},
            {"gain_weights": reference.class_weights(p, counts) * (1 + clusters)},
        ),
        "pending": ({}, {"pending": usual[:6]}, {"pending": usual[:6]}),
        "exclude": ({}, {"exclude": usual[:6]}, {"exclude": usual[:6]}),
        "clusters": (
            {"max_per_cluster": 1},
            {"cluster_ids": clusters},
            {"cluster_ids": clusters.tolist(), "max_per_cluster": 1},
        ),
        "logdet": ({"criterion": "logdet"}, {}, {"criterion": "logdet"}),
        "top_class": ({"rows": "top_class"}, {}, {"rows": "top_class"}),
    }[name]


NAMES = (
    "prior_precision",
    "eval_data",
    "eval_data as factors",
    "balanced",
    "recommended",
    "recommended in sums",
    "uncovered",
    "class_weight",
    "class_weight and costs",
    "pending",
    "exclude",
    "clusters",
    "logdet",
    "top_class",
)
