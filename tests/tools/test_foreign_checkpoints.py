"""Checkpoints as other packages' own save calls write them, taken by ``select`` as they are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mixed_files import pixels
from torch import Tensor, nn

from fishermask_fast.cli import main
from fishermask_fast.labeling import load_trained
from fishermask_fast.models import build_model

pytestmark = pytest.mark.tools
CLASSES = 3
TORCHVISION, TIMM = "squeezenet1_1", "timm:test_resnet"
Saved = tuple[str, Path | None, dict[str, Tensor]]
"""Name of the network, its checkpoint, and the weights that it must come to."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    for number in range(6):
        pixels(number).resize((64, 64)).save(Path("new", f"{number}.png"))
    return tmp_path


def network(name: str = TORCHVISION, seed: int = 1) -> nn.Module:
    return build_model(name, CLASSES, (3, 64, 64), seed=seed)


def timm_checkpoint(ema: bool) -> Saved:
    """As timm's training script saves, with its arguments, optimiser and a moving average."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = network(TIMM)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = ModelEmaV3(model) if ema else None
    if average is not None:
        average.update(network(TIMM, seed=2))
    Path("saved").mkdir()
    arguments = Namespace(model="test_resnet", lr=0.1, mean=(0.5, 0.5, 0.5), experiment=None)
    saver = CheckpointSaver(
        model, optimizer, args=arguments, model_ema=average, checkpoint_dir="saved"
    )
    saver.save_checkpoint(epoch=3, metric=71.5)
    return TIMM, Path("saved/model_best.pth.tar"), model.state_dict()


def lightning_checkpoint() -> Saved:
    """As Lightning's ModelCheckpoint saves, with hyper-parameters and a loss's weights."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, learning_rate: float, where: Path) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network()
            self.loss = nn.CrossEntropyLoss(torch.ones(CLASSES))

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss: Tensor = self.loss(self.net(x), y)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])

    data = [(torch.rand(3, 64, 64), i % CLASSES) for i in range(4)]
    module = Module(1e-3, Path("somewhere"))
    callback = lightning.pytorch.callbacks.ModelCheckpoint("saved", filename="best")
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
    return TORCHVISION, Path("saved/best.ckpt"), module.net.state_dict()


def averaged_checkpoint() -> Saved:
    """torch's AveragedModel, with the epoch and the optimiser beside it."""
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(network(seed=2))
    average.update_parameters(network(seed=3))
    optimizer = torch.optim.Adam(model.parameters())
    content = {"epoch": 7, "swa": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, "swa.pt")
    return TORCHVISION, Path("swa.pt"), average.module.state_dict()


def safetensors_checkpoint() -> Saved:
    from safetensors.torch import save_model

    model = nn.Module()
    model.backbone = network()
    save_model(model, "net.safetensors", metadata={"format": "pt"})
    return TORCHVISION, Path("net.safetensors"), model.backbone.state_dict()


def hugging_face_folder() -> Saved:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    names = {0: "cat", 1: "dog", 2: "f\u00fcchs"}
    configuration = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    torch.manual_seed(1)
    model = ResNetForImageClassification(configuration)
    model.save_pretrained("hf")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("hf")
    return "hf:hf", None, model.state_dict()


SAVES: dict[str, Callable[[], Saved]] = {
    "timm": lambda: timm_checkpoint(False),
    "timm with an average": lambda: timm_checkpoint(True),
    "Lightning": lightning_checkpoint,
    "AveragedModel": averaged_checkpoint,
    "safetensors": safetensors_checkpoint,
    "Hugging Face": hugging_face_folder,
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_checkpoints_of_other_packages(here: Path, save: Callable[[], Saved]) -> None:
    name, checkpoint, weights = save()
    flags = [] if checkpoint is None else ["--checkpoint", str(checkpoint), "--image-size", "64"]
    given = ["--unlabeled", "new", "--model", name, "-n", "2", "--fisher-samples", "4"]
    assert main(["select", *given, *flags]) == 0
    assert len(Path("picks/picks.csv").read_text().splitlines()) == 1 + 2
    found = load_trained(name, checkpoint).model.state_dict()
    # A wrapper of ours may stand around the network.
    got = {key: found[next(k for k in found if k.endswith(key))] for key in weights}
    assert len(found) == len(weights)
    for key, value in weights.items():
        assert torch.equal(got[key].cpu(), value.cpu()), key
