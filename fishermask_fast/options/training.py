"""How a network is trained on the labels so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cyclopts import Parameter


@Parameter(name="*", group="Training")
@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        learning_rate: Of Adam.
        train_batch_size: Samples of an optimiser step.
        target_accuracy: Training accuracy, over an epoch in train mode, that ends training.
        epochs: Epochs that end training whatever the accuracy.
        min_steps: Optimiser steps before either of them may end it.
        warm_start: Go on from the last round's network instead of a new one.
    """

    learning_rate: float = 1e-3
    train_batch_size: int = 64
    target_accuracy: float = 0.99
    epochs: int = 200
    min_steps: int = 200
    warm_start: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate must be a finite number above 0; got {self.learning_rate}"
            )
        if not 0 < self.target_accuracy <= 1:
            raise ValueError(f"target_accuracy must be in (0, 1]; got {self.target_accuracy}")
        for name in ("train_batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.min_steps < 0:
            raise ValueError(f"min_steps must not be negative; got {self.min_steps}")
