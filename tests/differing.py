"""Functions and modules of one name that differ in what they are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def rows_times(factor: float, more: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda outputs: (factor * more * outputs).softmax(1).sqrt().diag_embed()


def scaled(outputs: torch.Tensor, by: float = 1.0) -> torch.Tensor:
    return (by * outputs).softmax(1).sqrt().diag_embed()


class Rows:
    def __init__(self, by: float) -> None:
        self.by = by

    def scaled(self, outputs: torch.Tensor) -> torch.Tensor:
        return scaled(outputs, self.by)


# By kind of difference: a likelihood on all ranks but rank 1, and on that.
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "code": (lambda z: z.softmax(1).sqrt().diag_embed(), lambda z: z.sigmoid().diag_embed()),
    "constant": (lambda z: (z * 1.0).softmax(1).diag_embed(),
                 lambda z: (z * 2.0).softmax(1).diag_embed()),
    "closure": (rows_times(1.0), rows_times(2.0)),
    "closure over a tensor": (rows_times(torch.ones(3)), rows_times(torch.arange(3.0))),  # type: ignore[arg-type]
    "partial": (functools.partial(scaled, by=1.0), functools.partial(scaled, by=2.0)),
    "method": (Rows(1.0).scaled, Rows(2.0).scaled),
}  # fmt: skip


class Powered(nn.Module):
    def __init__(self, power: Any) -> None:
        super().__init__()
        self.power, self.tensor = power, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        power = self.power[0] if isinstance(self.power, tuple) else self.power
        found: torch.Tensor = self.tensor(x.abs() ** float(power is not None and power))
        return found
