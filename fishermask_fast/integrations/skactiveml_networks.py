"""The networks in skorch wrappers of scikit-activeml, as modules from samples to logits."""

from __future__ import annotations

from typing import Any

import torch
from skactiveml.base import SkorchMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn


def check_network(estimator: Any, what: str) -> None:
    """Raises where a skorch wrapper has no network yet: predicting would make a random one."""
    if isinstance(estimator, SkorchMixin) and not hasattr(estimator, "neural_net_"):
        raise NotFittedError(f"with {what} must be fitted or initialized")


class ChosenOutput(nn.Module):
    """The output of a module that probabilities are made of, as logits.

    Probabilities p themselves serve as log p, whose softmax they are.
    """

    def __init__(self, module: nn.Module, place: int, as_logits: bool) -> None:
        super().__init__()
        self.module = module
        self.place = place
        self.as_logits = as_logits

    def forward(self, x: Tensor) -> Tensor:
        output = self.module(x)
        chosen: Tensor = output[self.place] if isinstance(output, tuple) else output
        return chosen if self.as_logits else chosen.clamp(min=1e-38).log()


def logits_module(clf: Any) -> nn.Module:
    """A skorch-wrapped classifier's module, from samples to logits."""
    place, transform = next(iter(clf._effective_forward_outputs().values()))
    # The softmax of logits, and of log-probabilities, are the probabilities.
    as_logits = isinstance(transform, nn.Softmax) or transform in (torch.exp, torch.softmax)
    module: nn.Module = clf.neural_net_.module_
    return module if place == 0 and as_logits else ChosenOutput(module, place, as_logits)
