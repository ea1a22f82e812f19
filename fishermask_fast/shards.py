"""A selection from the shards of a process group: what every rank does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fishermask_fast.arrays import as_tensor
from fishermask_fast.candidates import LocalCandidates
from fishermask_fast.exchange import Exchange
from fishermask_fast.factors import GradientFactors, as_factors, same_columns
from fishermask_fast.greedy import Selection, greedy
from fishermask_fast.selection_input import Options, check_matrices, computable, mean_fisher
from fishermask_fast.sharded import Shard, ShardedCandidates, lead, serve


def select_from_shards(
    exchange: Exchange,
    gradients: object,
    sample_indices: object,
    fisher: object,
    labeled_fisher: object,
    options: Callable[[], Options],
    progress: bool,
) -> Selection:
    """The whole selection, on every rank; see select_batch.

    Raises:
        TypeError, ValueError: of any rank's arguments.
        LostContact: a process has died, or does not answer.
    """

    def check() -> tuple[Options, GradientFactors | None]:
        given = as_tensor("gradients", gradients)
        return options(), None if given is None else as_factors(given)

    asked, given = exchange.agree(check)
    factors, n_total, before = _agree_on_pool(exchange, asked, given)
    asked.check_pool(factors, n_total)
    places = exchange.agree(lambda: _places(sample_indices, len(factors), before))
    _check_places(exchange, places, n_total)
    f, f_labeled = exchange.agree(
        lambda: check_matrices(factors, fisher, labeled_fisher, asked.n_labeled)
    )
    factors = exchange.agree(lambda: computable(factors))
    if not exchange.everyone(f is not None)[0]:
        mean = exchange.agree(lambda: mean_fisher(factors))
        f = exchange.total(mean.mul_(len(factors) / n_total))
    elif f is None:
        f = torch.zeros(0, 0, dtype=torch.float64)
    problem = asked.problem(f, f_labeled, factors.device)
    pool = exchange.agree(lambda: LocalCandidates(factors, problem.scale, 1, asked.chunk_size))
    shard = Shard(pool, places.to(factors.device), n_total)
    if exchange.rank > 0:
        served = serve(shard, exchange)
        assert isinstance(served, Selection)
        return served
    whole = ShardedCandidates(shard, exchange)
    return lead(exchange, lambda: greedy(whole, problem, asked, factors.dtype, progress))


def _agree_on_pool(
    exchange: Exchange, options: Options, given: GradientFactors | None
) -> tuple[GradientFactors, int, int]:
    """This rank's factors, how many all ranks have, and how many the ranks before this one have.

    Raises:
        ValueError: the ranks' arguments or columns differ, or no rank has gradients.
    """
    none = None if given is None else given[:0].to("cpu")
    told = exchange.everyone(
        (replace(options, chunk_size=None), 0 if given is None else len(given), none)
    )
    for rank, (other, _, _) in enumerate(told):
        if other != told[0][0]:
            raise ValueError(
                "all ranks must be called with the same arguments; rank 0 was called with "
                f"{told[0][0]}, rank {rank} with {other}"
            )
    kinds = [(rank, kind) for rank, (_, _, kind) in enumerate(told) if kind is not None]
    if not kinds:
        raise ValueError("gradients hold no samples on any rank; expected a pool of at least one")
    first, like = kinds[0]
    for rank, kind in kinds:
        if kind.dtype != like.dtype or not same_columns(kind, like):
            raise ValueError(
                "gradients must have the same columns and dtype on all ranks; rank "
                f"{first} gave {like.dtype} with r = {like.n_rows}, k = {like.n_columns}, rank "
                f"{rank} {kind.dtype} with r = {kind.n_rows}, k = {kind.n_columns}"
            )
    counts = [count for _, count, _ in told]
    factors = like.to(exchange.device) if given is None else given
    return factors, sum(counts), sum(counts[: exchange.rank])


def _places(given: object, n: int, before: int) -> Tensor:
    """Where this rank's samples are in the whole pool, on the CPU."""
    if given is None:
        return torch.arange(before, before + n)
    if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.shape != (n,):
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"sample_indices must be int64 of shape ({n},); got {found}")
    if bool((given.diff() <= 0).any()):
        raise ValueError("sample_indices must be ascending")
    return given.cpu()


def _check_places(exchange: Exchange, places: Tensor, n_total: int) -> None:
    """Raise, on all ranks, where all places together cannot be 0..N-1."""
    ends = (int(places[0]), int(places[-1])) if len(places) else (0, 0)
    # Sums that no set of places but the right one is likely to have, modulo 2^64.
    sums = (int(places.sum()), int((places * places).sum()), int((places ^ (places >> 3)).sum()))
    told = exchange.everyone((*ends, *sums))
    whole = torch.arange(n_total)
    expected = ((whole.sum()), (whole * whole).sum(), (whole ^ (whole >> 3)).sum())
    found = [sum(rank[2 + i] for rank in told) for i in range(3)]
    apart = [(a - int(b)) % 2**64 for a, b in zip(found, expected, strict=True)]
    if any(apart) or any(low < 0 or high >= n_total for low, high, *_ in told):
        raise ValueError(
            f"sample_indices of all ranks together must be 0..{n_total - 1}, each once; their "
            f"range is {min(t[0] for t in told)}..{max(t[1] for t in told)}"
        )
