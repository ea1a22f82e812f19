"""One rank of a gloo group that uses each option once: ranks_options.py RANK SIZE FOLDER."""

from __future__ import annotations

import gc
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import aims
import torch
import torch.distributed as dist
import wishes
from pools import picks
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fishermask_fast import FisherMaskSelector, save_factors, select_batch

# Factors as eval_data, and distances between ranks, are not defined over several processes.
ALONE = ("eval_data as factors", "uncovered")
QUERIES = tuple(name for name in aims.NAMES if name not in ALONE)
KINDS = ("structured", "dense", "stored")


def part(n: int, rank: int, size: int) -> Tensor:
    """Places of a rank's samples, the first rank's the fewest."""
    bounds = [0, *(n * (r + 1) ** 2 // size**2 for r in range(size))]
    return torch.arange(bounds[rank], bounds[rank + 1])


def some(value: Any, places: Tensor, n: int) -> Any:
    """A rank's own of what there is for each of n samples."""
    return torch.as_tensor(value)[places] if value is not None and len(value) == n else value


def select(name: str, kind: str, block_size: int, rank: int, size: int, folder: Path) -> list[int]:
    factors = wishes.pool("part")
    given = wishes.options_of(name, wishes.published(factors, 1))
    arguments = wishes.given_to(factors, given) | {"backward_steps": 1}
    mine = part(len(factors), rank, size)
    for each in ("gain_weights", "cluster_ids"):
        if each in arguments:
            arguments[each] = torch.as_tensor(arguments[each])[mine]
    own: Any = factors[mine]
    if kind == "dense":
        own = own.dense()
    if kind == "stored":
        own = save_factors(own, folder / f"{name} {block_size} {rank}.safetensors")
    return picks(select_batch(own, **arguments, block_size=block_size, group=dist.group.WORLD))


def query(name: str, rank: int, size: int, *, by_sampler: bool) -> list[int]:
    setting = aims.Setting()
    parameters, arguments, _ = aims.case(setting, name)
    arguments = dict(arguments)
    data = {
        "unlabeled": TensorDataset(setting.pool),
        "labeled": TensorDataset(setting.labeled, setting.labels),
        "eval_data": TensorDataset(arguments.pop("eval_data", setting.pool[:0])),
    }
    n, n_labeled, n_aimed = (len(each) for each in data.values())
    if by_sampler:
        places = {name: torch.arange(len(each))[rank::size] for name, each in data.items()}
        own: dict[str, Any] = {
            name: DataLoader(each, 7, sampler=DistributedSampler(each, size, rank, shuffle=False))
            for name, each in data.items()
            if len(each)
        }
    else:
        places = {name: part(len(each), rank, size) for name, each in data.items()}
        # All of what is labeled, and whose uncertainty is to fall, is another rank's.
        places["labeled"] = torch.arange(n_labeled if rank == size - 1 else 0)
        places["eval_data"] = torch.arange(n_aimed if rank == 0 else 0)
        own = {
            name: TensorDataset(*(t[places[name]] for t in each.tensors))
            for name, each in data.items()
        }
        parameters = parameters | {"group": dist.group.WORLD}
        if not n_aimed or rank:
            own.pop("eval_data")
    for each in ("gain_weights", "cluster_ids"):
        if each in arguments:
            arguments[each] = some(arguments[each], places["unlabeled"], n)
    if "labels" in arguments:
        arguments["labels"] = arguments["labels"][places["labeled"]]
    selector = FisherMaskSelector(setting.model, mask="head", backward_steps=1, **parameters)
    aimed = own.get("eval_data")
    return picks(
        selector.query(
            own["unlabeled"], aims.K, own["labeled"], progress=False, eval_data=aimed, **arguments
        )
    )


def weighted(rank: int, size: int) -> list[int]:
    """eval_weights of a number a sample, each rank its own."""
    setting = aims.Setting()
    mine = part(aims.N, rank, size)
    weights = torch.linspace(0, 1, aims.N) ** 6
    selector = FisherMaskSelector(
        setting.model, mask="head", eval_weights=weights[mine], group=dist.group.WORLD
    )
    return picks(selector.query(setting.pool[mine], aims.K, progress=False))


def refused(name: str) -> str:
    setting = aims.Setting()
    parameters, arguments, _ = aims.case(setting, name)
    selector = FisherMaskSelector(setting.model, mask="head", group=dist.group.WORLD, **parameters)
    try:
        selector.query(setting.pool, aims.K, setting.labeled, progress=False, **arguments)
    except ValueError as error:
        return str(error)
    return "accepted"


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    found: dict[str, Any] = {}
    # Each option once: forms, block sizes and ways to split the data in turn.
    for at, name in enumerate(wishes.OPTIONS):
        found[name] = select(name, KINDS[at % 3], (8, 32, 1)[at // 3 % 3], rank, size, folder)
    for at, name in enumerate(QUERIES):
        found[f"query {name}"] = query(name, rank, size, by_sampler=at % 2 == 1)
    found["weighted"] = weighted(rank, size)
    found |= {f"refused {name}": refused(name) for name in ALONE}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
