"""What a model says of samples: log-probabilities, and what goes into its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.likelihoods import likelihood_of
from fishermask_fast.network.batches import Pool, to_model
from fishermask_fast.network.collating import Inputs
from fishermask_fast.network.evaluation import (
    check_finite,
    device_of,
    evaluating,
    input_dtype,
    raw_outputs,
    unwrap,
)
from fishermask_fast.network.head import Head, find_head
from fishermask_fast.progress import progress_bar

BATCH_SIZE = 256


@torch.no_grad()
def predict(
    model: nn.Module,
    pool: Any,
    batch_size: int | None = None,
    *,
    hidden: bool = False,
    likelihood: str = "categorical",
    head: Head | None = None,
    indices: Sequence[int] | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all samples and, where asked for, the head's inputs.

    Args:
        model: From a batch to logits (N, C); read in eval mode and left as it was.
        pool: Samples, read in order.
        batch_size: Samples of a forward pass.
        hidden: Whether to return what goes into the head.
        head: The head's name; None reads it from the graph of a sample's logits.
        indices: Of the samples to read, ascending; None for all.
        likelihood: ``"categorical"``, or ``"bernoulli"`` for the probability of each label itself.
        progress: Show how far it is.

    Returns:
        Log-probabilities (N, C), and the head's inputs (N, d), or (N, 0) unless asked for; both
        float64 on the CPU.

    Raises:
        ValueError: Logits are not finite, or the head takes more than one vector a sample.
    """
    samples = Pool.of(pool, "pool")
    if indices is not None:
        samples = samples.subset(indices)
    module = _head_module(model, samples.first(1), head) if hidden else ""
    seen: list[Tensor] = []
    log_p, inputs = [], []
    with (
        evaluating(model) as net,
        progress_bar(len(samples), "predictions", "samples", progress) as advance,
    ):
        device = device_of(net)
        handle = None
        if hidden:
            handle = net.get_submodule(module).register_forward_pre_hook(
                lambda _, given: seen.append(given[0])
            )
        try:
            start = 0
            for batch in samples.batches(batch_size or samples.batch_size or BATCH_SIZE):
                logits = raw_outputs(net, to_model(batch, device, input_dtype(net, batch)))
                likelihood_of(likelihood).check_shape(logits.shape)
                check_finite("the model's logits", logits, start, len(samples))
                start += len(logits)
                advance(len(logits))
                log_p.append(_log_probabilities(logits.double(), likelihood).cpu())
                if hidden:
                    inputs.append(_vectors(seen.pop(), len(logits), module))
        finally:
            if handle is not None:
                handle.remove()
    found = torch.cat(log_p)
    return found, torch.cat(inputs) if hidden else found.new_zeros(len(found), 0)


def _log_probabilities(logits: Tensor, likelihood: str) -> Tensor:
    if likelihood == "bernoulli":
        return nn.functional.logsigmoid(logits.reshape(len(logits), -1))
    return logits.log_softmax(1)


def require_head(model: nn.Module, inputs: Inputs, head: Head | None = None) -> Head:
    """Name of the model's head, given or read from the logits of a batch.

    Raises:
        ValueError: There is none.
    """
    found = find_head(model, inputs) if head is None else head
    if found is None:
        raise ValueError("model must end in a head, such as nn.Linear; found none")
    return found


def _head_module(model: nn.Module, inputs: Inputs, given: Head | None) -> str:
    head = require_head(model, inputs, given)
    if not isinstance(head, str) or head not in dict(unwrap(model).named_modules()):
        raise ValueError(f"the model's head must be one module; found the parameters of {head}")
    return head


def _vectors(values: Tensor, n: int, head: str) -> Tensor:
    if values.shape[:1] != (n,) or values.ndim != 2:
        raise ValueError(
            f"{head} must take one vector a sample, (N, d); got {tuple(values.shape)} for {n}"
        )
    return values.double().cpu()
