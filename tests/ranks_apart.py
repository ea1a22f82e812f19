"""One rank of a gloo group whose ranks are called differently: ranks_apart.py RANK SIZE FOLDER."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from differing import FUNCTIONS, Powered
from ranks import joined
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fishermask_fast import FisherMask, FisherMaskSelector, select_batch
from fishermask_fast.distributed import agreement

# By parameter: what all ranks are given, and what rank 1 is given instead.
PARAMETERS: dict[str, tuple[Any, Any]] = {
    "fraction": (0.7, 0.6),
    "n_parameters": (40, 41),
    "mask": ("global", "per_layer"),
    "keep_head": (True, False),
    "head": (None, "3"),
    "likelihood": ("categorical", "bernoulli"),
    "weighting": ("fisher", "none"),
    "preset": ("published", "recommended"),
    "lamb": (None, 1.5),
    "backward_steps": (0, 1),
    "fisher_samples": (10, 9),
    "rank": (None, 1),
    "batch_size": (None, 4),
    "seed": (0, 1),
    "prior_precision": (None, 2.0),
    "criterion": ("trace", "logdet"),
    "eval_weights": (None, "balanced"),
    "class_weight": (None, "balanced"),
    "rows": ("all", "top_class"),
    "max_per_cluster": (None, 2),
}
# These are each rank's own, or have cases of their own below.
OWN_PARAMETERS = ("model", "device", "group")
QUERY: dict[str, tuple[Any, Any]] = {
    "n_select": (3, 4),
    "pending": ([0, 20], [0, 21]),
    "exclude": (None, [3]),
    "gain_weights": (None, torch.ones(9)),
    "cluster_ids": (None, torch.arange(9)),
}
OWN_QUERY = ("unlabeled", "labeled", "progress", "out", "eval_data", "labels")
SELECTION: dict[str, tuple[Any, Any]] = {
    "n_select": (3, 4),
    "lamb": (1.0, 0.5),
    "n_labeled": (2, 3),
    "backward_steps": (0, 1),
    "block_size": (None, 2),
    "precision": ("mixed", "float64"),
    "prior_precision": (None, 2.0),
    "criterion": ("trace", "logdet"),
    "max_per_cluster": (None, 2),
    "pending": ([0, 20], [0, 21]),
    "exclude": (None, [3]),
    "gain_weights": (None, torch.ones(8)),
    "cluster_ids": (None, torch.arange(8)),
    "fisher": (torch.eye(5), 2 * torch.eye(5)),
    "labeled_fisher": (torch.eye(5), torch.eye(5, dtype=torch.float64) * 3),
}
OWN_SELECTION = (
    "gradients", "chunk_size", "progress", "device", "group", "sample_indices",
)  # fmt: skip


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def make_pool(n: int = 9) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(n))


def query(model: nn.Module | None = None, **changed: Any) -> Any:
    given = {name: values[0] for name, values in PARAMETERS.items()} | changed
    given["fraction" if "n_parameters" in changed else "n_parameters"] = None
    asked = {"n_select": given.pop("n_select", 3), "labeled": given.pop("labeled", make_pool(4))}
    data = given.pop("unlabeled", make_pool())
    asked["out"] = given.pop("out", None)
    asked["progress"] = given.pop("progress", False)
    for name in ("pending", "exclude", "gain_weights", "cluster_ids", "eval_data", "labels"):
        asked[name] = given.pop(name, None)
    given.setdefault("group", dist.group.WORLD)
    return FisherMaskSelector(model or make_model(), **given).query(data, **asked)


def parameter(name: str) -> Callable[[int], Any]:
    return lambda rank: query(**{name: (PARAMETERS | QUERY)[name][rank == 1]})


def selection(name: str) -> Callable[[int], Any]:
    def select(rank: int) -> Any:
        given = {key: values[key == name and rank == 1] for key, values in SELECTION.items()}
        return select_batch(torch.randn(8, 2, 5), **given, group=dist.group.WORLD)

    return select


def spread(pool: torch.Tensor, rank: int) -> DataLoader[Any]:
    data = TensorDataset(pool)
    sampler: Any = DistributedSampler(data, dist.get_world_size(), rank)
    return DataLoader(data, 2, sampler=sampler)


def other_order(rank: int) -> Any:
    model = make_model()
    if rank == 1:
        with torch.no_grad():
            weight = model.get_parameter("0.weight")
            weight.copy_(weight.flip(0))
    return query(model)


def other_buffer(rank: int) -> Any:
    model = make_model()
    if rank == 1:
        model.get_buffer("1.running_mean")[:2] = torch.tensor([1.0, -1.0])
    return query(model)


def frozen(rank: int) -> Any:
    model = make_model()
    model.get_parameter("0.bias").requires_grad_(rank != 1)
    return query(model)


def other_class(rank: int) -> Any:
    model = make_model()
    if rank == 1:
        model[2] = nn.ReLU()  # type: ignore[index]
    return query(model)


def another_mask(rank: int) -> Any:
    scores = {name: torch.rand(p.shape) for name, p in make_model().named_parameters()}
    for name in scores:
        scores[name] = torch.arange(scores[name].numel()).view_as(scores[name]) * 1.0
        if rank == 1:
            scores[name] = -scores[name]
    return query(mask=FisherMask.from_scores(scores, 0.6, keep_head=False))


def lengths(rank: int) -> Any:
    return query(group=None, unlabeled=spread(make_pool(9 + (rank == 1)), rank), labeled=None)


def labeled_on_some(rank: int) -> Any:
    labeled = None if rank == 1 else spread(make_pool(4), rank)
    return query(group=None, unlabeled=spread(make_pool(), rank), labeled=labeled)


def other_dtype(rank: int) -> Any:
    return query(unlabeled=make_pool().to(torch.float64 if rank == 1 else torch.float32))


def other_axes(rank: int) -> Any:
    return query(unlabeled=make_pool()[:, None] if rank == 1 else make_pool())


def eval_data_on_some(rank: int) -> Any:
    aimed = None if rank == 1 else spread(make_pool(5), rank)
    data = {"unlabeled": spread(make_pool(), rank), "labeled": spread(make_pool(4), rank)}
    return query(group=None, **data, eval_data=aimed)


def eval_weights_on_some(rank: int) -> Any:
    return query(eval_weights=torch.ones(9) if rank == 1 else None)


def negative_labels_on_one(rank: int) -> Any:
    return query(class_weight="balanced", labels=[0, 1, 2, -1 if rank == 1 else 0])


def cost_of_nothing_on_one(rank: int) -> Any:
    return query(gain_weights=torch.ones(9) * (rank != 1))


def one_file(rank: int) -> Any:
    return query(out=Path(sys.argv[3]) / "one file")


def fisher_on_rank_1(rank: int) -> Any:
    fisher = torch.eye(5) if rank == 1 else None
    return select_batch(torch.randn(8, 2, 5), 3, fisher, group=dist.group.WORLD)


def places_on_some(rank: int) -> Any:
    places = torch.arange(rank * 8, rank * 8 + 8) if rank == 1 else None
    return select_batch(torch.randn(8, 2, 5), 3, group=dist.group.WORLD, sample_indices=places)


def other_package(name: str, entry: Callable[[int], Any]) -> Callable[[int], Any]:
    def call(rank: int) -> Any:
        module, attribute = {
            "fishermask_fast": (agreement, "__version__"),
            "torch": (torch, "__version__"),
            "numpy": (agreement.np, "__version__"),
        }[name]
        before = getattr(module, attribute)
        if rank == 1:
            setattr(module, attribute, "0.0.1")
        try:
            return entry(rank)
        finally:
            setattr(module, attribute, before)

    return call


def eval_data_in_turns_on_one(rank: int) -> Any:
    return query(eval_data=spread(make_pool(5), rank) if rank == 1 else None)


def eval_data_in_turns_beside_its_own(rank: int) -> Any:
    return query(eval_data=spread(make_pool(5), rank) if rank == 1 else make_pool(5))


def in_turns_on_one(rank: int) -> Any:
    data = spread(make_pool(), rank) if rank == 1 else make_pool()
    return query(unlabeled=data, labeled=None)


def in_turns_beside_none(rank: int) -> Any:
    return query(unlabeled=spread(make_pool(), rank) if rank == 1 else None, labeled=None)


def labeled_in_turns_on_one(rank: int) -> Any:
    return query(labeled=spread(make_pool(4), rank) if rank == 1 else make_pool(4))


def bad_progress(rank: int) -> Any:
    return query(progress="x" if rank == 1 else False)


def bad_progress_of_a_selection(rank: int) -> Any:
    progress: Any = "x" if rank == 1 else False
    return select_batch(torch.randn(8, 2, 5), 3, group=dist.group.WORLD, progress=progress)


def labeled_fisher_on_rank_1(rank: int) -> Any:
    known = torch.eye(5) if rank == 1 else None
    return select_batch(
        torch.randn(8, 2, 5), 3, labeled_fisher=known, n_labeled=2, group=dist.group.WORLD
    )


def other_function(kind: str) -> Callable[[int], Any]:
    return lambda rank: query(likelihood=FUNCTIONS[kind][rank == 1])


def other_attribute(one: Any, other: Any) -> Callable[[int], Any]:
    def call(rank: int) -> Any:
        torch.manual_seed(0)
        return query(Powered(other if rank == 1 else one), fraction=1.0)

    return call


def other_slope(rank: int) -> Any:
    model = make_model()
    model[2] = nn.LeakyReLU(0.2 if rank == 1 else 0.1)  # type: ignore[index]
    return query(model)


def plain_query(rank: int) -> Any:
    return query()


def plain_selection(rank: int) -> Any:
    return select_batch(torch.randn(8, 2, 5), 3, group=dist.group.WORLD)


# By case: what to call, and what the message names.
APART: dict[str, tuple[Callable[[int], Any], str]] = {
    **{f"query {name}": (parameter(name), name) for name in (*PARAMETERS, *QUERY)},
    **{f"selection {name}": (selection(name), name) for name in SELECTION},
    "order of parameters": (other_order, "model"),
    "buffers": (other_buffer, "model"),
    "frozen parameters": (frozen, "model"),
    "other modules": (other_class, "model"),
    "another mask": (another_mask, "mask"),
    "lengths": (lengths, "the number of unlabeled samples"),
    "labeled on some": (labeled_on_some, "labeled"),
    "dtype of the data": (other_dtype, "unlabeled data"),
    "axes of the data": (other_axes, "unlabeled data"),
    "eval_data on some": (eval_data_on_some, "eval_data"),
    "eval_weights on some": (eval_weights_on_some, "eval_weights"),
    "negative labels on one": (negative_labels_on_one, "labels must be classes 0..2; got -1"),
    "cost of nothing on one": (cost_of_nothing_on_one, "gain_weights must be finite and above 0"),
    "one file": (one_file, "out must be another one on each rank"),
    "fisher on rank 1": (fisher_on_rank_1, "fisher must be given on rank 0"),
    "places on some": (places_on_some, "sample_indices"),
    "eval_data in turns on one": (eval_data_in_turns_on_one, "eval_data"),
    "eval_data in turns beside its own": (eval_data_in_turns_beside_its_own, "eval_data"),
    "unlabeled in turns on one": (in_turns_on_one, "unlabeled"),
    "unlabeled in turns beside none": (in_turns_beside_none, "unlabeled"),
    "labeled in turns on one": (labeled_in_turns_on_one, "labeled"),
    "labeled_fisher on rank 1": (
        labeled_fisher_on_rank_1,
        "labeled_fisher must be given on rank 0",
    ),
    **{f"likelihood, another {kind}": (other_function(kind), "likelihood") for kind in FUNCTIONS},
    **{
        f"attribute {one} and {other}": (other_attribute(one, other), "model")
        for one, other in ((1.0, 2.0), (1, 2), (True, False), (None, 1), ((1, "a"), (1, "b")))
    },
    "slope": (other_slope, "model"),
    **{
        f"{package}, {entry.__name__}": (other_package(package, entry), f"version of {package}")
        for package in ("fishermask_fast", "torch", "numpy")
        for entry in (plain_query, plain_selection)
    },
}


# What one rank alone is called with wrongly is an error of its type on all.
WRONG_ON_ONE: dict[str, Callable[[int], Any]] = {
    "progress of a query": bad_progress,
    "progress of a selection": bad_progress_of_a_selection,
}


def labeled_fisher_of_rank_0(rank: int) -> list[int]:
    """The picks with F_L on rank 0 alone, and where these are not those with it on all."""
    pool = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(rank))
    found = []
    for known in (torch.eye(5) if rank == 0 else None, torch.eye(5)):
        for criterion in ("trace", "logdet"):
            found.append(
                select_batch(
                    pool, 3, labeled_fisher=known, n_labeled=2, group=dist.group.WORLD,
                    lamb=0.1, criterion=criterion,
                ).indices.tolist()
            )  # fmt: skip
    assert found[:2] == found[2:], found
    return [*found[0], *found[1]]


def equal_in_effect(rank: int) -> list[int]:
    """Values that differ in type alone, and what is each rank's own, are no differences."""
    found = query(
        lamb=1 if rank == 1 else 1.0,
        keep_head=True,
        device="cpu" if rank == 1 else None,
        progress=rank == 1,
        labeled=None if rank == 1 else make_pool(4),
        out=Path(sys.argv[3]) / f"own {rank}" if rank == 1 else None,
    )
    chunked = select_batch(
        torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(rank)),
        3,
        torch.eye(5) if rank == 0 else None,
        chunk_size=rank + 1,
        progress=False,
        device="cpu" if rank == 1 else None,
        group=dist.group.WORLD,
    )
    return [*found.indices.tolist(), *chunked.indices.tolist()]


def main() -> None:
    found: dict[str, Any] = {}
    with joined() as (rank, _, folder):
        cases = {name: call for name, (call, _) in APART.items()} | WRONG_ON_ONE
        for name, call in cases.items():
            torch.manual_seed(rank)
            try:
                found[name] = ("picks", call(rank).indices.tolist())
            except (TypeError, ValueError, RuntimeError) as error:
                found[name] = (type(error).__name__, str(error))
        found["labeled_fisher of rank 0"] = ("picks", labeled_fisher_of_rank_0(rank))
        found["equal in effect"] = ("picks", equal_in_effect(rank))
        torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
