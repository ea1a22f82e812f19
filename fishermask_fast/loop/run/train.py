"""The training recipe, one for every strategy: Adam from scratch, then settled batch statistics.

On 50 to 200 labels a network reaches 99% training accuracy long before the running statistics of
its BatchNorm layers have settled; evaluated with them it guesses, and its gradients, taken in
eval mode, are as wrong. So training takes at least ``min_steps`` steps, and the running mean and
variance are estimated again afterwards, as averages over the labeled set read through the
evaluation transform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast.datasets import Label
from fishermask_fast.loop.run.tasks import TASKS, Task, overall
from fishermask_fast.options import Recipe
from fishermask_fast.progress import progress_bar

Labeled = Dataset[tuple[Tensor, Label]]


@dataclass(frozen=True)
class Training:
    """What training came to: epochs, optimiser steps, and the last epoch's metric and loss."""

    epochs: int
    steps: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """Metric (accuracy, of classes) and mean loss on a test set; NaN for classes not in it."""

    accuracy: float
    loss: float
    class_accuracy: list[float]


def train_model(
    model: nn.Module,
    training_set: Labeled,
    settling_set: Labeled,
    recipe: Recipe,
    *,
    task: Task = TASKS["categorical"],
    seed: int = 0,
    progress: bool = False,
) -> Training:
    """Train in place, on the device where the model is, and leave the model in eval mode.

    Args:
        model: From a batch of images to logits (N, C).
        training_set: Labeled images through the training transform.
        settling_set: The same images through the evaluation transform.
        recipe: When to stop.
        task: What is learned.
        seed: Of the order of samples, augmentation and dropout; the global random state is
            left as it was.
        progress: Show how far it is.

    Returns:
        Epochs, steps, and the last epoch's accuracy and loss.

    Raises:
        ValueError: There are fewer than two samples, which BatchNorm cannot train on.
    """
    n_samples = len(training_set)  # type: ignore[arg-type]
    if n_samples < 2:
        raise ValueError(f"training needs at least 2 labeled samples; got {n_samples}")
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    epochs = steps = 0
    accuracy = loss = math.nan
    n_batches = len(_batches(torch.arange(n_samples), recipe.train_batch_size))
    most = max(recipe.epochs, math.ceil(recipe.min_steps / n_batches))
    with (
        _seeded(seed, device),
        progress_bar(most, "training", "epochs at most", progress) as advance,
    ):
        model.train()
        while (
            steps < recipe.min_steps
            or (accuracy < recipe.target_accuracy and epochs < recipe.epochs)
            or epochs == 0
        ):
            loss_sum = 0.0
            seen: list[tuple[Tensor, Tensor]] = []
            for batch in _batches(torch.randperm(n_samples), recipe.train_batch_size):
                images, labels = _read(training_set, batch, device)
                logits = model(images)
                batch_loss = task.loss(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                batch_loss.backward()
                optimizer.step()
                seen.append((logits.detach(), labels))
                loss_sum += batch_loss.item() * len(batch)
                steps += 1
            epochs += 1
            advance(1)
            accuracy, loss = (
                task.fit(*map(torch.cat, zip(*seen, strict=True))),
                loss_sum / n_samples,
            )
        settle_batch_norm(model, settling_set)
    model.eval()
    return Training(epochs, steps, accuracy, loss)


def try_training(
    model: nn.Module,
    training_set: Labeled,
    n_classes: int,
    size: int,
    task: Task = TASKS["categorical"],
) -> None:
    """One step's forward and backward pass, so that what cannot be trained is found before it is.

    Args:
        model: From a batch of samples to logits (N, C); a fresh one, of no use afterwards.
        training_set: Labeled samples through the training transform.
        n_classes: C.
        size: Samples of the smallest batch that training takes.
        task: What is learned.

    Raises:
        ValueError: The model does not take such a batch in train mode, or gives no logits (N, C).
    """
    device = next(model.parameters()).device
    with _seeded(0, device):
        samples, labels = _read(training_set, torch.arange(size), device)
        try:
            logits = model.train()(samples)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise ValueError(
                f"the model cannot be trained on a batch {tuple(samples.shape)}: {error}"
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (size, n_classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model must give logits ({size}, {n_classes}) in train mode; got {found}"
            )
        task.loss(logits, labels).backward()


def settle_batch_norm(model: nn.Module, data: Labeled, batch_size: int = 256) -> None:
    """Estimate the running statistics of BatchNorm again, as averages over ``data``.

    Batches are as even as they can be, since the averages give each batch the same weight.

    Args:
        model: Changed in place; a network without BatchNorm is left alone.
        data: At least two samples, read through the evaluation transform.
        batch_size: Largest batch.
    """
    device = next(model.parameters()).device
    n_samples = len(data)  # type: ignore[arg-type]
    parts = torch.arange(n_samples).tensor_split(math.ceil(n_samples / batch_size))
    batches = (_read(data, part, device)[0] for part in parts)
    torch.optim.swa_utils.update_bn(batches, model)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Labeled,
    n_classes: int,
    *,
    task: Task = TASKS["categorical"],
    batch_size: int = 256,
    progress: bool = False,
) -> Evaluation:
    """The task's metric of a model in eval mode, over all samples and for each class.

    Args:
        model: From a batch of images to logits (N, n_classes); its mode is restored.
        data: Labeled images through the evaluation transform.
        n_classes: Number of classes.
        task: What is learned.
        batch_size: Images read at once.
        progress: Show how far it is.

    Returns:
        Metric, mean loss, and metric by class.
    """
    device = next(model.parameters()).device
    n_samples = len(data)  # type: ignore[arg-type]
    seen: list[tuple[Tensor, Tensor]] = []
    loss_sum = 0.0
    was_training = model.training
    model.eval()
    try:
        with progress_bar(n_samples, "testing", "samples", progress) as advance:
            for batch in torch.arange(n_samples).split(batch_size):
                images, labels = _read(data, batch, device)
                logits = model(images)
                loss_sum += task.loss(logits, labels, reduction="sum").item()
                seen.append((logits.cpu(), labels.cpu()))
                advance(len(batch))
    finally:
        model.train(was_training)
    outputs, targets = map(torch.cat, zip(*seen, strict=True))
    by_class = task.by_output(outputs, targets).tolist()
    return Evaluation(overall(task, outputs, targets), loss_sum / n_samples, by_class)


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch use at most ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    cuda = device.type == "cuda"
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=[device] if cuda else []), deterministic:
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Consecutive pieces of ``order``; one sample left over joins the batch before it.

    BatchNorm cannot train on a single sample whose map is 1 x 1.
    """
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _read(data: Labeled, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    many = getattr(data, "__getitems__", None)
    items = many(indices.tolist()) if many else [data[i] for i in indices.tolist()]
    images, labels = zip(*items, strict=True)
    return torch.stack(images).to(device), torch.tensor(labels).to(device)
