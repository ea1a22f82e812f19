"""Queries from a LightningModule and a LightningDataModule, before and after training."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fishermask_fast import FisherMaskSelector
from fishermask_fast.integrations.lightning import query

L = pytest.importorskip("lightning")


class Module(L.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(L.LightningDataModule):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        self.everything = TensorDataset(x, x.argmax(1) % 3)
        self.stages: list[str] = []

    def prepare_data(self) -> None:
        self.stages.append("prepare")

    def setup(self, stage: str) -> None:
        self.stages.append(stage)
        if stage == "fit":
            self.train = Subset(self.everything, range(10))
        else:
            self.pool = Subset(self.everything, range(10, 40))

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=4, shuffle=True, drop_last=True)

    def predict_dataloader(self) -> Any:
        return DataLoader(self.pool, batch_size=7)


@pytest.mark.parametrize(
    "options", [{"fraction": 0.5}, {"mask": "head", "backward_steps": 1}], ids=["mask", "bait"]
)
def test_picks_of_the_selector(options: dict[str, Any]) -> None:
    module, data = Module(), Data()
    module.train()
    found = query(module, data, 6, **options)
    x = data.everything.tensors[0]
    expected = FisherMaskSelector(module, **options).query(x[10:], 6, x[:10], progress=False)
    assert found.indices.tolist() == expected.indices.tolist()
    assert data.stages == ["prepare", "fit", "predict"]
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert query(module, data, 6, setup=False, **options).indices.tolist() == found.indices.tolist()
    assert data.stages == ["prepare", "fit", "predict"]


def test_after_training() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, data = Module(), Data()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data)
    assert len(query(module, data, 4, mask="head")) == 4
    assert data.stages == ["prepare", "fit", "predict"]


@pytest.mark.parametrize("nothing", [None, [], ()], ids=["None", "list", "tuple"])
def test_nothing_is_labeled_yet(nothing: Any) -> None:
    module, data = Module(), Data()
    data.train_dataloader = lambda: nothing  # type: ignore[method-assign]
    found = query(module, data, 4, mask="head")
    x = data.everything.tensors[0][10:]
    expected = FisherMaskSelector(module, mask="head").query(x, 4, progress=False)
    assert found.indices.tolist() == expected.indices.tolist()


def test_one_loader_in_a_list() -> None:
    module, data = Module(), Data()
    loader = data.predict_dataloader
    data.predict_dataloader = lambda: [loader()]  # type: ignore[method-assign]
    assert len(query(module, data, 4, mask="head")) == 4
    data.predict_dataloader = lambda: [loader(), loader()]  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="predict_dataloader must give one DataLoader; got list"):
        query(module, data, 4, mask="head")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"datamodule": None}, TypeError, "LightningDataModule; NoneType has no prepare_data"),
        ({"datamodule": DataLoader([1])}, TypeError, "DataLoader has no prepare_data"),
        ({"module": "model"}, TypeError, "model must be an nn.Module; got str"),
        ({"n_select": 31}, ValueError, "at most the 30 unlabeled samples; got 31"),
        ({"n_select": 0}, ValueError, "n_select must be at least 1"),
        ({"mask": "best"}, ValueError, "mask must be one of"),
        ({"no_such": 1}, TypeError, "no_such"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"module": Module(), "datamodule": Data(), "n_select": 3}
    with pytest.raises(error, match=message):
        query(**({"mask": "head"} | given | change))
