"""One rank of a gloo group for test_shards.py: ranks.py RANK SIZE FOLDER [kill | stop]."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pools import ADVERSARIAL, random_factors, random_fisher
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fishermask_fast import FisherMaskSelector, GradientFactors, Selection, select_batch
from fishermask_fast.engine.candidates import LocalCandidates


def problem(name: str) -> dict[str, Any]:
    """The arguments of a selection from the whole pool."""
    generator = torch.Generator().manual_seed(0)
    if name in ADVERSARIAL:
        pool = GradientFactors(ADVERSARIAL[name](generator))
        return {"gradients": pool, "n_select": min(len(pool), 25)}
    head = "none" if name == "dense" else "part"
    n = 3 if name == "few" else 230
    factors = random_factors(generator, n=n, r=4, m=9, c=5, d=6, head=head, dtype=torch.float32)
    fisher = random_fisher(generator, factors.n_columns)
    more: dict[str, Any] = {"n_select": min(n, 90), "lamb": 0.02, "fisher": fisher}
    if name == "labeled":
        more |= {"labeled_fisher": random_fisher(generator, factors.n_columns), "n_labeled": 12}
    if name == "removals":
        more |= {"n_select": 40, "backward_steps": 1}
    options = {
        "in sums": {"prior_precision": "auto"},
        "weighted": {"gain_weights": torch.randn(n, generator=generator).mul(2).exp()},
        "waiting": {"pending": [3, 229, 100, 40], "exclude": list(range(50, 120))},
        "clusters": {"cluster_ids": torch.arange(n) // 3, "max_per_cluster": 1},
        "log det": {"criterion": "logdet", "fisher": None},
    }
    options["all of them"] = {
        name: value for one in options.values() for name, value in one.items()
    }
    if name in options:
        more |= {"n_select": 30, "backward_steps": 1, **options[name]}
        if "prior_precision" in more:
            del more["lamb"]
    return {"gradients": factors, **more}


NAMES = (
    "structured",
    "dense",
    "labeled",
    "removals",
    "few",
    "duplicates",
    "all equal",
    "one dominant",
    "in sums",
    "weighted",
    "waiting",
    "clusters",
    "log det",
    "all of them",
)


def uneven(n: int, rank: int, size: int) -> torch.Tensor:
    """Places of a rank's samples: the first rank has most, some may have none."""
    bounds = [n - n // 2**r for r in range(size)] + [n]
    return torch.arange(bounds[rank], bounds[rank + 1])


def by_turns(n: int, rank: int, size: int) -> torch.Tensor:
    """As a DistributedSampler deals them out."""
    return torch.arange(rank, n, size)


def world() -> Any:
    return dist.group.WORLD


def select(name: str, rank: int, size: int, split: Callable[..., torch.Tensor]) -> Selection:
    whole = problem(name)
    gradients: GradientFactors = whole.pop("gradients")
    places = split(len(gradients), rank, size)
    mine = gradients[places] if len(places) else None
    for name in ("gain_weights", "cluster_ids"):
        if name in whole:
            whole[name] = whole[name][places] if len(places) else None
    given = places if split is by_turns else None
    return select_batch(mine, **whole, group=world(), sample_indices=given)


def query(
    rank: int | None = None, size: int = 1, *, shards: bool = False, out: Path | None = None
) -> Selection:
    """A query of a small network: alone, by DistributedSampler, or from shards of the data."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    pool, labeled = (torch.randn(n, 6, generator=generator).double() for n in (41, 3))
    group, parts = None, [pool, labeled]
    if shards:
        group = world()
        parts = [part[uneven(len(part), rank, size)] for part in parts]
    elif rank is not None:
        parts = [
            DataLoader(data, 4, sampler=DistributedSampler(data, size, rank, drop_last=True))
            for data in map(TensorDataset, parts)
        ]
    selector = FisherMaskSelector(model, fraction=0.7, fisher_samples=30, group=group)
    return selector.query(parts[0], 8, parts[1], progress=False, out=out)


def half_spread(rank: int, size: int) -> Selection:
    pool = TensorDataset(torch.randn(9, 6))
    loader = DataLoader(pool, sampler=DistributedSampler(pool, size, rank))
    return FisherMaskSelector(nn.Linear(6, 3), mask="head").query(loader, 2, pool)


def anothers_sampler(rank: int, size: int) -> Selection:
    pool = TensorDataset(torch.randn(9, 6))
    loader = DataLoader(pool, sampler=DistributedSampler(pool, size, max(rank, 1)))
    return FisherMaskSelector(nn.Linear(6, 3), mask="head").query(loader, 2)


def other_model(rank: int, size: int) -> Selection:
    torch.manual_seed(min(rank, 1))
    return FisherMaskSelector(nn.Linear(6, 3), mask="head", group=world()).query(
        torch.randn(9, 6), 2
    )


def wrong_width_on_one(rank: int, size: int) -> Selection:
    torch.manual_seed(0)
    selector = FisherMaskSelector(nn.Linear(6, 3), mask="head", group=world())
    return selector.query(torch.randn(9, 6 + (rank == 1)), 2)


def nan_on_the_last(rank: int, size: int) -> Selection:
    pool = torch.randn(8, 2, 5)
    if rank == size - 1:
        pool[3] = torch.nan
    return select_batch(pool, 3, torch.eye(5), group=world())


def other_arguments(rank: int, size: int) -> Selection:
    return select_batch(torch.randn(8, 2, 5), 3 + (rank == 1), group=world())


def other_columns(rank: int, size: int) -> Selection:
    return select_batch(torch.randn(8, 2, 5 + (rank == 1)), 3, group=world())


def wrong_type(rank: int, size: int) -> Selection:
    return select_batch("no gradients" if rank == 1 else torch.randn(8, 2, 5), 3, group=world())


def overlapping(rank: int, size: int) -> Selection:
    return select_batch(
        torch.randn(8, 2, 5), 3, group=world(), sample_indices=torch.arange(8) + (rank > 0)
    )


def nothing(rank: int, size: int) -> Selection:
    return select_batch(None, 3, group=world())


FAILING = (
    nan_on_the_last,
    other_arguments,
    other_columns,
    wrong_type,
    overlapping,
    nothing,
    half_spread,
    anothers_sampler,
    other_model,
    wrong_width_on_one,
)


def lose_a_rank(rank: int, size: int, number: int) -> Selection:
    """The last rank gets a signal in its second block."""
    if rank == size - 1:
        verify, calls = LocalCandidates.verify, []

        def interrupted(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            if len(calls) == 2:
                os.kill(os.getpid(), number)
            return verify(*arguments, **options)

        LocalCandidates.verify = interrupted  # type: ignore[method-assign]
    return select("structured", rank, size, by_turns)


def run_all(rank: int, size: int, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in NAMES:
        for split in (uneven, by_turns):
            found[f"{name} {split.__name__}"] = select(name, rank, size, split)
    found["query by sampler"] = query(rank, size)
    found["query from shards"] = query(rank, size, shards=True)
    found["query into files"] = query(rank, size, out=out)
    found["query from files"] = query(rank, size, out=out)
    for case in FAILING:
        try:
            found[case.__name__] = case(rank, size)
        except (TypeError, ValueError, RuntimeError) as error:
            found[case.__name__] = (type(error), str(error))
    return found


@contextmanager
def joined(seconds: int = 60) -> Iterator[tuple[int, int, Path]]:
    """The group that the command line names: rank, size, and the folder where its ranks meet."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )
    yield rank, size, folder
    # None leaves while another still talks to it, and nothing holds the group after its end.
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


def main() -> None:
    with joined(8 if sys.argv[4:] else 60) as (rank, size, folder):
        if sys.argv[4:]:
            lose_a_rank(rank, size, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[sys.argv[4]])
        torch.save(run_all(rank, size, folder / f"{rank}.safetensors"), folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
