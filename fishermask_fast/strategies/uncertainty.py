"""Strategies that take the samples of which the model is least sure, one by one.

With the model's probabilities p_1 >= p_2 >= ... of a sample (Settles 2009, section 3.1):

    entropy           largest   - sum_c p_c log p_c
    margin            smallest  p_1 - p_2
    least_confidence  largest   1 - p_1

They look at each sample alone, so a batch may hold many that are alike. Ties go to the lowest
index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.distributed import Ranks
from fishermask_fast.likelihoods import likelihood_of
from fishermask_fast.network import (
    Head,
    Inputs,
    check_finite,
    device_of,
    evaluating,
    find_head,
    input_dtype,
    raw_outputs,
    unwrap,
)
from fishermask_fast.network import batches as data
from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool

BATCH_SIZE = 256


def entropy(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Largest entropy of the predicted distribution (Shannon 1948; Settles 2009)."""
    log_p = predict(model, pool, options.batch_size, group=options.group)[0]
    return largest(-(log_p.exp() * log_p).sum(1), n)


def margin(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest difference of the two largest probabilities (Scheffer et al. 2001)."""
    best = (
        predict(model, pool, options.batch_size, group=options.group)[0].exp().topk(2, dim=1).values
    )
    return largest(best[:, 1] - best[:, 0], n)


def least_confidence(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest of the largest probabilities (Lewis and Gale 1994)."""
    return largest(
        -predict(model, pool, options.batch_size, group=options.group)[0].max(1).values, n
    )


def largest(scores: Tensor, n: int) -> Picks:
    """The n largest of the scores (N,), the largest first, ties by lowest index."""
    order = scores.sort(descending=True, stable=True)
    return Picks(order.indices[:n], {"scores": order.values[:n].tolist()})


@torch.no_grad()
def predict(
    model: nn.Module,
    pool: Pool,
    batch_size: int | None = None,
    *,
    hidden: bool = False,
    likelihood: str = "categorical",
    group: Any = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all samples and, where asked for, the head's inputs.

    Args:
        model: From a batch to logits (N, C); read in eval mode and left as it was.
        pool: Samples, read in order.
        batch_size: Samples of a forward pass.
        hidden: Whether to return what goes into the head.
        likelihood: ``"categorical"``, or ``"bernoulli"`` for the probability of each label itself.
        group: Processes that each have a part of the pool; the parts follow one another.

    Returns:
        Log-probabilities (N, C), and the head's inputs (N, d), or (N, 0) unless asked for; both
        float64 on the CPU.

    Raises:
        ValueError: Logits are not finite, or the head takes more than one vector a sample.
    """
    ranks = Ranks(group)
    # Of several processes one may have no part.
    empty = not ranks.alone and not len(pool)  # type: ignore[arg-type]
    own = ranks.attempt(
        lambda: None if empty else _predict(model, pool, batch_size, hidden, likelihood)
    )
    parts = [part for part in ranks.everyone(own) if part is not None]
    return torch.cat([log_p for log_p, _ in parts]), torch.cat([inputs for _, inputs in parts])


def _predict(
    model: nn.Module, pool: Pool, batch_size: int | None, hidden: bool, likelihood: str
) -> tuple[Tensor, Tensor]:
    samples = data.Pool.of(pool, "pool")
    head = _head_module(model, samples.first(1)) if hidden else ""
    seen: list[Tensor] = []
    log_p, inputs = [], []
    with evaluating(model) as net:
        device = device_of(net)
        handle = None
        if hidden:
            handle = net.get_submodule(head).register_forward_pre_hook(
                lambda _, given: seen.append(given[0])
            )
        try:
            start = 0
            for batch in samples.batches(batch_size or samples.batch_size or BATCH_SIZE):
                logits = raw_outputs(net, data.to_model(batch, device, input_dtype(net, batch)))
                likelihood_of(likelihood).check_shape(logits.shape)
                check_finite("the model's logits", logits, start, len(samples))
                start += len(logits)
                log_p.append(_log_probabilities(logits.double(), likelihood).cpu())
                if hidden:
                    inputs.append(_vectors(seen.pop(), len(logits), head))
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


def inputs_of(pool: Pool) -> Inputs:
    """The first sample of a pool, as a batch."""
    return data.Pool.of(pool, "pool").first(1)


def _head_module(model: nn.Module, inputs: Inputs) -> str:
    head = require_head(model, inputs)
    if not isinstance(head, str) or head not in dict(unwrap(model).named_modules()):
        raise ValueError(f"the model's head must be one module; found the parameters of {head}")
    return head


def _vectors(values: Tensor, n: int, head: str) -> Tensor:
    if values.shape[:1] != (n,) or values.ndim != 2:
        raise ValueError(
            f"{head} must take one vector a sample, (N, d); got {tuple(values.shape)} for {n}"
        )
    return values.double().cpu()
