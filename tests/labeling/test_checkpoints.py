"""Checkpoints as they come: one rule finds the weights, and one line says why there are none."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast.labeling import checkpoints, load_trained
from fishermask_fast.labeling.weights import Weights
from fishermask_fast.models import build_model

State = dict[str, Tensor]


def torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


class Hyper(dict[str, Any]):
    """A class that no reader of checkpoints knows."""


def network() -> nn.Module:
    return build_model("cnn_small", 2, (3, 12, 12), seed=1)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


LOSS = {"weight": torch.ones(2)}
WRAPS: dict[str, Callable[[State], Any]] = {
    "net": lambda s: {"net": s},
    "model_state": lambda s: {"model_state": s, "epoch": 3},
    "ema alone": lambda s: {"state_dict_ema": s, "best": 0.5},
    "deep": lambda s: {"a": {"b": {"c": s}}},
    "orig, module": lambda s: prefixed(s, "_orig_mod.module."),
    "module, orig": lambda s: prefixed(s, "module._orig_mod."),
    "self.net": lambda s: {"state_dict": prefixed(s, "net.")},
    "all of them": lambda s: {"model_ema": prefixed(s, "module.model._orig_mod.net.backbone.")},
    "inside": lambda s: {key.replace(".", "._orig_mod.", 1): v for key, v in s.items()},
    "epoch beside": lambda s: {**s, "epoch": 3, "n_averaged": torch.tensor(2)},
    "loss beside": lambda s: {**prefixed(s, "model."), **prefixed(LOSS, "criterion.")},
    "averaged": lambda _: torch.optim.swa_utils.AveragedModel(network()).state_dict(),
    "script": lambda s: {
        "epoch": 3, "arch": "x", "state_dict": s, "args": argparse.Namespace(lr=0.1),
        "optimizer": torch.optim.Adam(network().parameters()).state_dict(),
    },
    "hyper": lambda s: {
        "state_dict": prefixed(s, "net."), "hyper_parameters": Hyper(lr=0.1), "path": Path("a"),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_weights_are_found_wherever_they_are(tmp_path: Path, wrap: str) -> None:
    state = network().state_dict()
    torch.save(WRAPS[wrap](state), tmp_path / "a.pt")
    found = load_trained("cnn_small", tmp_path / "a.pt", shape=(3, 12, 12)).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_safetensors(tmp_path: Path) -> None:
    state = network().state_dict()
    pytest.importorskip("safetensors.torch").save_file(prefixed(state, "net."), tmp_path / "a.bin")
    found = load_trained("cnn_small", tmp_path / "a.bin", shape=(3, 12, 12)).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_what_was_taken_off_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = network().state_dict()
    ema = {key: value + 1 for key, value in state.items()}
    content = {"state_dict": {**prefixed(state, "model."), **prefixed(LOSS, "loss.")}}
    content["state_dict_ema"] = prefixed(ema, "model.")
    torch.save(content, tmp_path / "a.pt")
    with caplog.at_level(logging.WARNING):
        model = load_trained("cnn_small", tmp_path / "a.pt", shape=(3, 12, 12)).model
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])
    for said in ("read from state_dict;", "model. taken off", "1 tensors left out (loss.weight)",
                 "state_dict_ema would fit as well"):  # fmt: skip
        assert said in caplog.text


def test_a_larger_network_is_another_one(tmp_path: Path) -> None:
    """All of resnet18's names are resnet34's, with the same shapes."""
    torch.save(build_model("resnet34", 2, (3, 32, 32)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"no checkpoint of resnet18: 0 names missing; \d+ names unex.*\.\.\."
    ):
        load_trained("resnet18", tmp_path / "a.pt", shape=(3, 32, 32))


def test_another_networks_names_are_told_by_three(tmp_path: Path) -> None:
    torch.save(build_model("vit_small", 2, (3, 12, 12)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"names missing \(.*, \.\.\.\); \d+ names unexp") as error:
        load_trained("resnet18", tmp_path / "a.pt", shape=(3, 32, 32))
    assert len(str(error.value)) < 600


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def huge(path: Path) -> None:
    write(path, b"PK\x03\x04")
    os.truncate(path, 2**43)


def looping(path: Path) -> None:
    content: dict[str, Any] = {"a": 1}
    content["self"] = content
    torch.save(content, path)


def damaged(path: Path) -> None:
    torch.save(network().state_dict(), path)
    write(path, path.read_bytes()[:1000])


class Whole(nn.Module):
    """Saved whole."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write(p, b""), "it is empty"),
        (lambda p: write(p, b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (lambda p: write(p, b"\n<!DOCTYPE html><html>"), "it is a web page"),
        (lambda p: write(p, b"GIF89a"), "neither torch.save nor safetensors"),
        (huge, "more than the free memory holds"),
        (looping, "without tensors"),
        (damaged, "it is damaged"),
        (lambda p: torch.save(Whole(), p), "a pickled Whole, whose code is not run"),
        (lambda p: torch.save(Whole(), p, _use_new_zipfile_serialization=False), "it is damaged"),
        (lambda p: os.mkfifo(p), "must be a file; it is a pipe"),
    ],
)
def test_files_that_are_none_get_one_line(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_trained("cnn_small", tmp_path / "a.pt", shape=(3, 12, 12))
    text = str(error.value)
    assert "a.pt" in text and "\n" not in text and len(text) < 300 + len(str(tmp_path))
    assert "weights_only" not in text


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), "more": Runs(tmp_path / "ran")}, tmp_path / "a.pt")
    load_trained("cnn_small", tmp_path / "a.pt", shape=(3, 12, 12))
    assert not (tmp_path / "ran").exists()


class Runs:
    """Writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return write, (self.path, b"")


# Of each family one; the others in check-tools. RegNets are made with all their values; the
# smallest of them follows.
QUICK = (
    *("alexnet", "convnext_tiny", "densenet121", "googlenet", "inception_v3", "mnasnet0_5"),
    *("mobilenet_v3_small", "resnet18", "squeezenet1_0", "swin_t", "vgg11", "vit_b_16"),
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.tools)
        for name in torchvision_names()
        if not name.startswith("regnet")
    ],
)
def test_the_classes_of_every_torchvision_classifier_are_read_off_its_weights(name: str) -> None:
    shape = (3, 224, 224)
    two, three = (checkpoints._shapes(lambda n: build_model(name, n, shape), n) for n in (2, 3))
    with torch.device("meta"):
        saved = build_model(name, 7, shape).state_dict()
    found = Weights(saved, "", "", (), ())
    assert checkpoints._count(Path("net.pt"), name, found, two, three) == 7


@pytest.mark.parametrize("name", ["regnet_y_400mf"])
def test_networks_that_the_meta_device_cannot_make(tmp_path: Path, name: str) -> None:
    torch.save(build_model(name, 3, (3, 32, 32)).state_dict(), tmp_path / "a.pt")
    model = load_trained(name, tmp_path / "a.pt", shape=(3, 32, 32)).model
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_images_need_no_shape_from_python(tmp_path: Path) -> None:
    model = build_model("squeezenet1_1", 3, (3, 64, 64), seed=1)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    found = load_trained("squeezenet1_1", str(tmp_path / "net.pt"))
    for key, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value)
    with pytest.raises(ValueError, match=r"shape must be \(columns,\) for mlp_small"):
        load_trained("mlp_small", tmp_path / "net.pt", "table")
