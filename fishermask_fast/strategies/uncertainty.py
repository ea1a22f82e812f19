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
from fishermask_fast.network import predict as predict_own
from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool


def entropy(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Largest entropy of the predicted distribution (Shannon 1948; Settles 2009)."""
    log_p = predict(model, pool, **reading(options))[0]
    return largest(-(log_p.exp() * log_p).sum(1), n)


def margin(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest difference of the two largest probabilities (Scheffer et al. 2001)."""
    best = predict(model, pool, **reading(options))[0].exp().topk(2, dim=1).values
    return largest(best[:, 1] - best[:, 0], n)


def least_confidence(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest of the largest probabilities (Lewis and Gale 1994)."""
    return largest(-predict(model, pool, **reading(options))[0].max(1).values, n)


def largest(scores: Tensor, n: int) -> Picks:
    """The n largest of the scores (N,), the largest first, ties by lowest index."""
    order = scores.sort(descending=True, stable=True)
    return Picks(order.indices[:n], {"scores": order.values[:n].tolist()})


def reading(options: QueryOptions) -> dict[str, Any]:
    """How samples are read, as ``predict`` takes it."""
    return {
        "batch_size": options.batch_size,
        "head": options.head,
        "group": options.group,
        "progress": options.progress,
    }


@torch.no_grad()
def predict(
    model: nn.Module,
    pool: Pool,
    batch_size: int | None = None,
    *,
    hidden: bool = False,
    likelihood: str = "categorical",
    head: str | None = None,
    group: Any = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all samples and, where asked for, the head's inputs.

    Args:
        model: From a batch to logits (N, C); read in eval mode and left as it was.
        pool: Samples, read in order.
        batch_size: Samples of a forward pass.
        hidden: Whether to return what goes into the head.
        likelihood: ``"categorical"``, or ``"bernoulli"`` for the probability of each label itself.
        head: The head's name; None reads it from the graph of a sample's logits.
        group: Processes that each have a part of the pool; the parts follow one another.
        progress: Show how far it is.

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
        lambda: (
            None
            if empty
            else predict_own(
                model,
                pool,
                batch_size,
                hidden=hidden,
                likelihood=likelihood,
                head=head,
                progress=progress,
            )
        )
    )
    parts = [part for part in ranks.everyone(own) if part is not None]
    return torch.cat([log_p for log_p, _ in parts]), torch.cat([inputs for _, inputs in parts])
