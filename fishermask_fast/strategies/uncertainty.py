"""Strategies that take the samples of which the model is least sure, one by one.

With the model's probabilities p_1 >= p_2 >= ... of a sample (Settles 2009, section 3.1):

    entropy           largest   - sum_c p_c log p_c
    margin            smallest  p_1 - p_2
    least_confidence  largest   1 - p_1

They look at each sample alone, so a batch may hold many that are alike. Ties go to the lowest
index.
"""

from __future__ import annotations

from torch import Tensor, nn

from fishermask_fast.network import predict
from fishermask_fast.options import QueryOptions
from fishermask_fast.strategies.interface import Picks, Pool


def entropy(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Largest entropy of the predicted distribution (Shannon 1948; Settles 2009)."""
    log_p = predict(model, pool, options.batch_size)[0]
    return largest(-(log_p.exp() * log_p).sum(1), n)


def margin(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest difference of the two largest probabilities (Scheffer et al. 2001)."""
    best = predict(model, pool, options.batch_size)[0].exp().topk(2, dim=1).values
    return largest(best[:, 1] - best[:, 0], n)


def least_confidence(
    model: nn.Module, pool: Pool, labeled: Pool, n: int, seed: int, options: QueryOptions
) -> Picks:
    """Smallest of the largest probabilities (Lewis and Gale 1994)."""
    return largest(-predict(model, pool, options.batch_size)[0].max(1).values, n)


def largest(scores: Tensor, n: int) -> Picks:
    """The n largest of the scores (N,), the largest first, ties by lowest index."""
    order = scores.sort(descending=True, stable=True)
    return Picks(order.indices[:n], {"scores": order.values[:n].tolist()})
