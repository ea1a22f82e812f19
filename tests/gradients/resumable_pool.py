"""A pool that can stop at a sample, and the files of gradients begun from it."""

from __future__ import annotations

import threading
from pathlib import Path

import killed_gradients
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast import (
    FisherMask,
    masked_gradients,
)

N, BATCH = 23, 4


class Pool(Dataset[Tensor]):
    """Says which samples were read in batches, and stops at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.samples = torch.randn(N, 1, 8, 8, generator=generator)
        self.stop = stop
        self.walked: list[int] = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.samples[index]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        # What is looked at beforehand, for the fingerprint and for the trial, is no batch.
        row = list(range(indices[0], indices[0] + len(indices)))
        if len(indices) > 1 and indices == row != [0, 1, 2]:
            if self.stop in indices:
                raise KeyboardInterrupt
            self.walked += indices
        return [self.samples[i] for i in indices]


@pytest.fixture(name="model")
def a_model() -> nn.Module:
    return killed_gradients.make_model().train()


@pytest.fixture(name="mask")
def a_mask(model: nn.Module) -> FisherMask:
    return killed_gradients.make_mask(model)


@pytest.fixture(name="path")
def a_path(tmp_path: Path) -> Path:
    return tmp_path / "gradients.safetensors"


@pytest.fixture(name="whole")
def a_whole(model: nn.Module, mask: FisherMask, tmp_path: Path) -> bytes:
    folder = tmp_path / "whole"
    folder.mkdir()
    masked_gradients(model, Pool(), mask, batch_size=BATCH, out=folder / "file")
    assert [file.name for file in folder.iterdir()] == ["file"]
    return (folder / "file").read_bytes()


@pytest.fixture(name="begun")
def a_begun(model: nn.Module, mask: FisherMask, path: Path) -> Path:
    """A file that was stopped in its fourth batch."""
    with pytest.raises(KeyboardInterrupt):
        masked_gradients(model, Pool(14), mask, batch_size=BATCH, out=path)
    return path


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def record_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def no_recorder() -> bool:
    return not any(t.name.startswith("fishermask_fast recorder") for t in threading.enumerate())
