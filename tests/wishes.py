"""Options of a selection, each of which changes half of the picks, and their definition."""

from __future__ import annotations

from typing import Any

import torch
from pools import random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, reference

N, N_SELECT, N_LABELED = 260, 16, 40
OPTIONS = (
    "prior_precision",
    "prior_precision auto",
    "lamb auto",
    "gain_weights",
    "pending",
    "exclude",
    "clusters",
    "clusters and pending",
    "logdet",
    "logdet and all others",
    "all others",
)


def pool(head: str = "whole", dtype: torch.dtype = torch.float64) -> GradientFactors:
    generator = torch.Generator().manual_seed(3)
    factors = random_factors(generator, n=N, r=3, m=6, c=4, d=5, head=head, dtype=dtype)
    # Columns of unequal sizes, so that what F asks for is not what is largest.
    size = torch.logspace(-1, 1, factors.middle.shape[2], dtype=torch.float64).to(dtype)
    return GradientFactors(
        factors.middle * size, factors.coupling, factors.hidden, factors.head_index
    )


def matrices(k: int) -> tuple[Tensor, Tensor]:
    """F, of which few directions make most, and F_L."""
    generator = torch.Generator().manual_seed(4)
    size = torch.logspace(1, -1, k, dtype=torch.float64).diag()
    fisher, labeled = (random_fisher(generator, k) for _ in range(2))
    return 100 * size @ fisher @ size, 3 * labeled


def published(factors: GradientFactors, backward_steps: int) -> list[int]:
    v = factors.to(dtype=torch.float64).dense()
    fisher, labeled = matrices(factors.n_columns)
    options = {"n_labeled": N_LABELED, "backward_steps": backward_steps}
    return reference.select(v, N_SELECT, fisher, labeled, **options)[0]


def options_of(name: str, usual: list[int]) -> dict[str, Any]:
    """The arguments of an option that matters to a selection whose picks would be `usual`."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(N, generator=generator, dtype=torch.float64).mul(2).exp()
    clusters = torch.arange(N) // 2 + 7
    clusters[usual] = 3
    known: dict[str, dict[str, Any]] = {
        "prior_precision": {"prior_precision": 1e-4},
        "prior_precision auto": {"prior_precision": "auto"},
        "lamb auto": {"lamb": "auto"},
        "gain_weights": {"gain_weights": weights},
        "pending": {"pending": usual[::-1]},
        "exclude": {"exclude": torch.tensor(usual)},
        "clusters": {"cluster_ids": clusters, "max_per_cluster": 2},
        "clusters and pending": {
            "cluster_ids": clusters,
            "max_per_cluster": 2,
            "pending": usual[:2],
        },
        "logdet": {"criterion": "logdet"},
    }
    every = {**known["prior_precision"], **known["gain_weights"], **known["clusters and pending"]}
    every["exclude"] = [100, 101, 230]
    known["all others"] = every
    known["logdet and all others"] = every | {"criterion": "logdet"}
    return known[name]


def defined(factors: GradientFactors, given: dict[str, Any], backward_steps: int) -> list[int]:
    """The picks of the definition."""
    fisher, labeled = matrices(factors.n_columns)
    options = dict(given)
    if options.get("lamb") == "auto":
        options["lamb"] = reference.auto_prior(fisher)
    if options.get("prior_precision") == "auto":
        options["prior_precision"] = reference.auto_prior(fisher, in_sums=True)
    for name in ("exclude", "cluster_ids"):
        if isinstance(options.get(name), Tensor):
            options[name] = options[name].tolist()
    found, _ = reference.select(
        factors.to(dtype=torch.float64).dense(),
        N_SELECT,
        fisher,
        labeled,
        n_labeled=N_LABELED,
        backward_steps=backward_steps,
        **options,
    )
    return found


def given_to(factors: GradientFactors, given: dict[str, Any]) -> dict[str, Any]:
    fisher, labeled = matrices(factors.n_columns)
    aim = {} if given.get("criterion") == "logdet" else {"fisher": fisher}
    return {"n_select": N_SELECT, "labeled_fisher": labeled, "n_labeled": N_LABELED, **aim, **given}
