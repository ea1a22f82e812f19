"""Masked gradients written by a process that is killed again and again, a little later each time.

    python tests/killed_gradients.py FILE

Prints how often it was killed. Processes are forked, so that only the first pays for the imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import torch
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


def main(path: str) -> None:
    """Write, and be killed, until the file is whole."""
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    write(None)  # what torch loads at its first use
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            timer = threading.Timer(0.05 * (kills + 1), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
            write(path, seconds=0.005)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            print(kills)
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"writing failed with status {status}")
        kills += 1


if __name__ == "__main__":
    main(sys.argv[1])
