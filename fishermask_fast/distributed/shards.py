"""A selection from the shards of a process group: what every rank does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fishermask_fast.distributed.agreement import (
    check_same,
    described,
    described_device,
    packages,
)
from fishermask_fast.distributed.candidates import Shard, ShardedCandidates, lead, serve
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.engine import (
    Options,
    Rules,
    Selection,
    as_source,
    check_clusters,
    check_device,
    check_gains,
    check_matrices,
    computable,
    select_greedily,
)
from fishermask_fast.factors import FactorSource, same_columns


@dataclass(frozen=True)
class Given:
    """The arguments of select_batch that are each rank's own, unchecked; see there."""

    gradients: object
    sample_indices: object
    fisher: object
    labeled_fisher: object
    device: object
    gain_weights: object = None
    cluster_ids: object = None

    def matrices(self) -> dict[str, object]:
        """Those that count on rank 0, by name."""
        return {"fisher": self.fisher, "labeled_fisher": self.labeled_fisher}


def select_from_shards(
    exchange: Exchange, given: Given, options: Callable[[], Options], progress: bool
) -> Selection:
    """The whole selection, on every rank; see select_batch.

    Raises:
        TypeError, ValueError: of any rank's arguments.
        LostContact: a process has died, or does not answer.
    """

    def check() -> tuple[Options, FactorSource | None]:
        return options(), None if given.gradients is None else as_source(given.gradients)

    asked, own = exchange.agree(check)
    _agree_on_arguments(exchange, asked, given, own is not None and len(own) > 0)
    source, n_total, before = _agree_on_pool(exchange, own)
    where = exchange.agree(lambda: check_device(given.device, source))
    places = exchange.agree(lambda: _places(given.sample_indices, len(source), before))
    _check_places(exchange, places, n_total)
    rules = _agree_on_rules(exchange, asked, given, places, n_total)
    exchange.agree(lambda: asked.check_pool(source, n_total, where, rules))
    # Rank 0's counts: that of another one is checked where it has any.
    elsewhere = exchange.rank > 0 and given.labeled_fisher is None
    n_labeled = 0 if elsewhere else asked.n_labeled
    f, f_labeled = exchange.agree(
        lambda: check_matrices(
            source, given.fisher, given.labeled_fisher, n_labeled, asked.criterion
        )
    )
    factors = exchange.agree(lambda: computable(source, where))
    if not exchange.everyone(f is not None)[0]:
        mean = exchange.agree(lambda: asked.needed_fisher(factors))
        f = exchange.total(mean.mul_(len(factors) / n_total)) if len(mean) else mean
    elif f is None:
        f = torch.zeros(0, 0, dtype=torch.float64)
    if exchange.rank > 0 and not len(f):
        # Rank 0 alone reads the matrices; its own says how M is scaled.
        asked = replace(asked, lamb=1.0)
    problem = exchange.agree(lambda: asked.problem(f, f_labeled, where))
    pool = exchange.agree(lambda: asked.candidates(factors, problem, rules, n_total, places))
    shard = Shard(pool, places.to(where), n_total)
    if exchange.rank > 0:
        served = serve(shard, exchange)
        assert isinstance(served, Selection)
        return served
    whole = ShardedCandidates(shard, exchange)
    dtype = factors.dtype
    return lead(exchange, lambda: select_greedily(whole, problem, asked, dtype, progress, rules))


def _agree_on_rules(
    exchange: Exchange, asked: Options, given: Given, places: Tensor, n_total: int
) -> Rules:
    """Who may be picked, with the clusters of all ranks' samples and the gains of this one's."""

    def check() -> tuple[Tensor | None, Tensor | None]:
        n = len(places)
        return check_gains(given.gain_weights, n), check_clusters(given.cluster_ids, n)

    gains, own = exchange.agree(check)
    told = exchange.everyone((gains is not None, None if own is None else (places, own)))
    if gains is None and any(has for has, _ in told):
        gains = torch.empty(0, dtype=torch.float64)  # of a rank without samples
    clusters = None
    if any(found is not None for _, found in told):
        clusters = torch.empty(n_total, dtype=torch.int64)
        for _, found in told:
            if found is not None:
                clusters[found[0]] = found[1]
    return exchange.agree(lambda: asked.rules(n_total, gains, clusters))


def _agree_on_arguments(
    exchange: Exchange, options: Options, own: Given, has_samples: bool
) -> None:
    """Raise, on all ranks, where their arguments differ, but for those that are each rank's own.

    Raises:
        ValueError: names the argument and the ranks.
    """

    def describe() -> dict[str, str | None]:
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        del values["chunk_size"]  # as much as each rank has memory for
        given = own.matrices()
        each = {"gain_weights": own.gain_weights, "cluster_ids": own.cluster_ids}
        return {
            **packages(),
            **{name: described(value) for name, value in values.items()},
            **{name: None if value is None else described(value) for name, value in given.items()},
            **{name: _whether(value) if has_samples else None for name, value in each.items()},
            "device": described_device(own.device),
            "sample_indices": _whether(own.sample_indices),
        }

    check_same(exchange, exchange.agree(describe))
    told = exchange.everyone({name: value is not None for name, value in own.matrices().items()})
    for name in own.matrices():
        given = [one[name] for one in told]
        if any(given) and not given[0]:
            raise ValueError(
                f"{name} must be given on rank 0, whose counts; it is on rank {given.index(True)} "
                "and not on rank 0"
            )


def _whether(value: object) -> str:
    return "None" if value is None else "given"


def _agree_on_pool(exchange: Exchange, given: FactorSource | None) -> tuple[FactorSource, int, int]:
    """This rank's factors, how many all ranks have, and how many the ranks before this one have.

    Raises:
        ValueError: the ranks' columns differ, or no rank has gradients.
    """
    none = None if given is None else given[torch.arange(0, device=given.device)].to("cpu")
    told = exchange.everyone((0 if given is None else len(given), none))
    kinds = [(rank, kind) for rank, (_, kind) in enumerate(told) if kind is not None]
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
    counts = [count for count, _ in told]
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
