"""What is learned: the loss that a network is trained with and the metric that it is judged by.

    likelihood   targets              loss                        metric
    categorical  int64 (N,)           cross entropy               accuracy
    bernoulli    float (N, C) 0 or 1  binary cross entropy        macro F1: the mean over labels of
                                                                  2 TP / (2 TP + FP + FN)
    gaussian     float (N, d)         squared error               R^2 = 1 - SSE / SST, the mean
                                                                  over targets

Each metric is 1 at best, so that learning curves, targets and areas read alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Task:
    """One kind of label.

    Attributes:
        metric: Its name, for people.
        loss: (outputs (n, C), targets, reduction=...) -> mean or sum over the samples.
        by_output: (outputs (n, C), targets) -> the metric of each class, label or target, (C,);
            NaN where the targets do not hold it.
        fit: (outputs, targets) -> the metric of training, over all samples at once.
        count: (targets, C) -> how many samples there are of each class or label.
    """

    metric: str
    loss: Callable[..., Tensor]
    by_output: Callable[[Tensor, Tensor], Tensor]
    fit: Callable[[Tensor, Tensor], float]
    count: Callable[[Tensor, int], Tensor]


def _class_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    n_classes = outputs.shape[1]
    correct = torch.bincount(targets[outputs.argmax(1) == targets], minlength=n_classes)
    return correct.double() / torch.bincount(targets, minlength=n_classes).double()


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    return int((outputs.argmax(1) == targets).sum()) / len(targets)


def _bernoulli_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction=reduction)


def _label_f1(outputs: Tensor, targets: Tensor) -> Tensor:
    found, true = outputs > 0, targets > 0.5
    hits = (found & true).sum(0).double()
    # 0 / 0, a label that is neither there nor found, is NaN.
    return 2 * hits / (found.sum(0) + true.sum(0)).double()


def _target_r2(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = outputs.double(), targets.double()
    errors = (outputs - targets).square().sum(0)
    return 1 - errors / (targets - targets.mean(0)).square().sum(0)


TASKS = {
    "categorical": Task(
        "accuracy",
        F.cross_entropy,
        _class_accuracy,
        _accuracy,
        lambda targets, n: torch.bincount(targets, minlength=n),
    ),
    "bernoulli": Task(
        "macro F1",
        _bernoulli_loss,
        _label_f1,
        # The share of all yeses and noes: F1 of an epoch's few samples says nothing of rare labels.
        lambda outputs, targets: float(((outputs > 0) == (targets > 0.5)).double().mean()),
        lambda targets, n: targets.sum(0).long(),
    ),
    "gaussian": Task(
        "R²",
        F.mse_loss,
        _target_r2,
        lambda outputs, targets: float(_target_r2(outputs, targets).mean()),
        lambda targets, n: torch.full((n,), len(targets)),
    ),
}
"""By likelihood."""


def overall(task: Task, outputs: Tensor, targets: Tensor) -> float:
    """The metric over all samples."""
    if task.metric == "accuracy":
        return _accuracy(outputs, targets)
    return float(task.by_output(outputs, targets).nanmean())
