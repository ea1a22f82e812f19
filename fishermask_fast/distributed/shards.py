"""A selection from the shards of a process group: what every rank does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fishermask_fast.distributed.candidates import Shard, ShardedCandidates, lead, serve
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.engine import (
    LocalCandidates,
    Options,
    Selection,
    as_source,
    check_device,
    check_matrices,
    computable,
    mean_fisher,
    select_greedily,
)
from fishermask_fast.factors import FactorSource, same_columns


def select_from_shards(
    exchange: Exchange,
    gradients: object,
    sample_indices: object,
    fisher: object,
    labeled_fisher: object,
    device: object,
    options: Callable[[], Options],
    progress: bool,
) -> Selection:
    """The whole selection, on every rank; see select_batch.

    Raises:
        TypeError, ValueError: of any rank's arguments.
        LostContact: a process has died, or does not answer.
    """

    def check() -> tuple[Options, FactorSource | None]:
        return options(), None if gradients is None else as_source(gradients)

    asked, given = exchange.agree(check)
    source, n_total, before = _agree_on_pool(exchange, asked, given)
    where = exchange.agree(lambda: check_device(device, source))
    asked.check_pool(source, n_total, where)
    places = exchange.agree(lambda: _places(sample_indices, len(source), before))
    _check_places(exchange, places, n_total)
    f, f_labeled = exchange.agree(
        lambda: check_matrices(source, fisher, labeled_fisher, asked.n_labeled)
    )
    factors = exchange.agree(lambda: computable(source, where))
    if not exchange.everyone(f is not None)[0]:
        mean = exchange.agree(lambda: mean_fisher(factors))
        f = exchange.total(mean.mul_(len(factors) / n_total))
    elif f is None:
        f = torch.zeros(0, 0, dtype=torch.float64)
    problem = asked.problem(f, f_labeled, where)
    pool = exchange.agree(lambda: LocalCandidates(factors, problem.scale, 1, asked.chunk_size))
    shard = Shard(pool, places.to(where), n_total)
    if exchange.rank > 0:
        served = serve(shard, exchange)
        assert isinstance(served, Selection)
        return served
    whole = ShardedCandidates(shard, exchange)
    return lead(exchange, lambda: select_greedily(whole, problem, asked, factors.dtype, progress))


def _agree_on_pool(
    exchange: Exchange, options: Options, given: FactorSource | None
) -> tuple[FactorSource, int, int]:
    """This rank's factors, how many all ranks have, and how many the ranks before this one have.

    Raises:
        ValueError: the ranks' arguments or columns differ, or no rank has gradients.
    """
    none = None if given is None else given[torch.arange(0, device=given.device)].to("cpu")
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
    source = like.to(exchange.device) if given is None else given
    return source, sum(counts), sum(counts[: exchange.rank])


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
