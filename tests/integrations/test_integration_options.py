"""Options of the selector and of its query through adapters: the picks of the selector itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pools import picks
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fishermask_fast import FisherMaskSelector
from fishermask_fast.integrations import huggingface, lightning

N, N_LABELED = 60, 12


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x)
        return logits


class Data:
    """What a LightningDataModule is to the adapter."""

    def __init__(self, pool: Tensor, labeled: Tensor, labels: Tensor) -> None:
        self.pool, self.labeled = pool, TensorDataset(labeled, labels)

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.labeled, batch_size=8)

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.pool), batch_size=8)


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {"x": torch.stack([item["x"] for item in items])}


OPTIONS: list[dict[str, Any]] = [
    {"prior_precision": 1e-3},
    {"lamb": "auto", "criterion": "logdet"},
    {"rows": "top_class", "eval_weights": "balanced"},
    {"eval_weights": "uncovered"},
    {"class_weight": "balanced", "gain_weights": torch.linspace(0.1, 10, N)},
    {"pending": [3, 4], "exclude": torch.arange(20, 50)},
    {"cluster_ids": torch.arange(N) // 10, "max_per_cluster": 2},
    {"eval_data": torch.linspace(-3, 3, 40).view(8, 5).double()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(one) for one in OPTIONS])
@pytest.mark.parametrize("adapter", ["lightning", "huggingface"])
def test_adapters_hand_every_option_on(adapter: str, options: dict[str, Any]) -> None:
    model = Head()
    pool, labeled = torch.randn(N, 5).double(), torch.randn(N_LABELED, 5).double()
    labels = torch.tensor([0] * 9 + [1, 2, 2])
    of_query = {
        name: value
        for name, value in options.items()
        if name in ("gain_weights", "pending", "exclude", "cluster_ids", "eval_data")
    }
    of_selector = {name: value for name, value in options.items() if name not in of_query}
    selector = FisherMaskSelector(model, mask="head", **of_selector)
    known = TensorDataset(labeled, labels)
    expected = picks(selector.query(pool, 8, known, progress=False, **of_query))
    if adapter == "lightning":
        found = lightning.query(model, Data(pool, labeled, labels), 8, mask="head", **options)
    else:
        as_items = {"x": pool, "known": labeled, "aim": options.get("eval_data")}
        items = {
            name: None if data is None else [{"x": row} for row in data]
            for name, data in as_items.items()
        }
        if items["aim"] is not None:
            options = options | {"eval_data": items["aim"]}
        if "class_weight" in options:
            options = options | {"labels": labels}
        found = huggingface.query(
            model, items["x"], 8, items["known"], collate=collate, mask="head", **options
        )
    assert picks(found) == expected
