"""Masked gradients written by a process that is killed again and again.

    python tests/killed_gradients.py FILE

Prints how often it was killed.
"""

from __future__ import annotations

import sys
import time

import torch
from killing import killed_until_done
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast import FisherMask, masked_gradients

BATCH = 3


class Slow(Dataset[Tensor]):
    """Samples that take a while, so that a process dies within any of them."""

    def __init__(self, n: int, seconds: float) -> None:
        self.samples = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.seconds)
        return self.samples[index]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )


def make_mask(model: nn.Module) -> FisherMask:
    scores = {name: torch.rand(p.shape) for name, p in model.named_parameters()}
    return FisherMask.from_scores(scores, 0.3, keep_head=False)


def write(path: str | None, seconds: float = 0.0) -> None:
    """The gradients of a small pool into a file, or into memory."""
    model = make_model()
    masked_gradients(model, Slow(60, seconds), make_mask(model), batch_size=BATCH, out=path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(None)  # what torch loads at its first use
    print(killed_until_done(lambda: write(sys.argv[1], seconds=0.005), seconds=0.05))
