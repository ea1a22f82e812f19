"""Greedy batch selection: the picks that most reduce tr(M^-1 F).

With M = lamb I + F_L n_L / (n_L + K) and V_x scaled by sqrt(K / (n_L + K)), K times the unpicked
sample with the largest score is picked and enters M (FisherMask, arXiv 2411.05752; BAIT, Ash et
al. 2021):

    score(x) = tr( V_x M^-1 F M^-1 V_x^T A_x^-1 ),  A_x = I + V_x M^-1 V_x^T;   M <- M + V_x^T V_x

With backward_steps = b, (1 + b) K are picked and then dropped one at a time, the one whose removal
raises tr(M^-1 F) least first, until K are left.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.arrays import Array, as_tensor, like
from fishermask_fast.block_engine import BlockEngine
from fishermask_fast.candidates import Candidates
from fishermask_fast.checks import (
    caller_level,
    check_finite,
    check_integer,
    check_matrix,
    check_memory,
    check_positive,
)
from fishermask_fast.engine import Engine
from fishermask_fast.factors import GradientFactors, as_factors
from fishermask_fast.loading import has_cuda_ops
from fishermask_fast.problem import Problem

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """What was selected, and how the objective tr(M^-1 F) came down.

    Attributes:
        indices: (K,) int64, the selected samples in the order picked.
        scores: (K,) float64, by how much each lowered tr(M^-1 F) when it was picked.
        objective: float64, tr(M^-1 F) before the first pick, after each pick and each removal.
        dropped: (b K,) int64, the samples that backward steps dropped, in that order.
        setups: how often the state of every candidate was made anew.
        passes: passes over all candidates' gradients, set-ups apart.
    """

    indices: Tensor
    scores: Tensor
    objective: Tensor
    dropped: Tensor
    setups: int
    passes: int

    def __len__(self) -> int:
        return self.indices.numel()


def fast_select(
    gradients: Tensor | GradientFactors | Array,
    n_select: int,
    fisher: Tensor | Array | None = None,
    labeled_fisher: Tensor | Array | None = None,
    *,
    lamb: float = 1.0,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
) -> list[int] | Any:
    """Indices of the batch that most reduces tr(M^-1 F), in the order picked.

    See select_batch for the arguments and the errors, and for scores beside the indices.

    Returns:
        A list of int; for gradients that are an array of another library, an array of that library.
    """
    selection = select_batch(
        gradients,
        n_select,
        fisher,
        labeled_fisher,
        lamb=lamb,
        n_labeled=n_labeled,
        backward_steps=backward_steps,
        chunk_size=chunk_size,
        progress=progress,
    )
    return like(gradients, selection.indices)


def select_batch(
    gradients: Tensor | GradientFactors | Array,
    n_select: int,
    fisher: Tensor | Array | None = None,
    labeled_fisher: Tensor | Array | None = None,
    *,
    lamb: float = 1.0,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    block_size: int | None = None,
    precision: str = "mixed",
) -> Selection:
    """Select the batch that most reduces tr(M^-1 F), with its scores.

    The picks are those of the formula computed in float64 throughout, ties by lowest index,
    whatever the options below; these change only time and memory.

    Args:
        gradients: of the unlabelled pool: V as a (N, r, k) tensor of float16, bfloat16, float32 or
            float64, strided in any way, or an array that speaks `__dlpack__` or `__array__`, or
            GradientFactors. On a GPU the selection
            runs there; where the ops were not built for it, on the CPU, from a copy.
        n_select: K, how many to select; 1..N.
        fisher: (k, k) F, of any floating dtype, a tensor or an array; None for the mean of
            V_x^T V_x over the pool.
        labeled_fisher: (k, k) F_L, the mean over the labelled samples; None where there are none.
        lamb: lambda of M, above 0.
        n_labeled: n_L, how many samples are labelled.
        backward_steps: b; 1 is BAIT's. Where N < (1 + b) K all N are picked first, with a warning.
        chunk_size: samples at a time in the set-up; None for about 32 MiB of working memory.
        progress: show a bar (needs tqdm).
        block_size: picks verified by one pass over the pool; None adapts it.
        precision: "mixed" takes products in float32 once scores have fallen and float32 gradients
            allow it; "float64" never does.

    Returns:
        The selection; its tensors are on the CPU.

    Raises:
        TypeError: an argument of another type or dtype than stated.
        ValueError: shapes or devices that do not fit, numbers out of range, NaN or Inf, matrices
            that are not symmetric or too large for memory, an empty pool.
    """
    if chunk_size is not None:
        chunk_size = check_integer("chunk_size", chunk_size, 1)
    if block_size is not None:
        block_size = check_integer("block_size", block_size, 1)
    if precision not in ("mixed", "float64"):
        raise ValueError(f"precision must be 'mixed' or 'float64'; got {precision!r}")
    with torch.no_grad():
        factors, problem, backward_steps = _check(
            as_factors(as_tensor("gradients", gradients)),
            n_select,
            as_tensor("fisher", fisher),
            as_tensor("labeled_fisher", labeled_fisher),
            lamb,
            n_labeled,
            backward_steps,
        )
        return _select(
            factors,
            problem,
            backward_steps,
            always_float64=precision == "float64" or factors.dtype == torch.float64,
            block_size=block_size,
            chunk_size=chunk_size,
            progress=progress,
        )


def _check(
    factors: GradientFactors,
    n_select: int,
    fisher: Tensor | None,
    labeled_fisher: Tensor | None,
    lamb: float,
    n_labeled: int,
    backward_steps: int,
) -> tuple[GradientFactors, Problem, int]:
    n, r, k = len(factors), factors.n_rows, factors.n_columns
    if n == 0:
        raise ValueError("gradients hold no samples; expected a pool of at least one")
    if r == 0 or k == 0:
        raise ValueError(f"gradients must have rows and columns; got shape {(n, r, k)}")
    n_select = check_integer("n_select", n_select, 1)
    if n_select > n:
        raise ValueError(f"n_select must be at most the pool's {n} samples; got {n_select}")
    backward_steps = check_integer("backward_steps", backward_steps, 0)
    n_labeled = check_integer("n_labeled", n_labeled, 0)
    lamb = check_positive("lamb", lamb)
    check_memory(k, factors.device)
    check_finite(factors)
    if fisher is not None:
        fisher = check_matrix("fisher", fisher, factors)
    if labeled_fisher is not None:
        labeled_fisher = check_matrix("labeled_fisher", labeled_fisher, factors)
        if n_labeled == 0:
            if bool(labeled_fisher.any()):
                raise ValueError("labeled_fisher was given with n_labeled = 0; expected how many")
            labeled_fisher = None
    elif n_labeled > 0:
        raise ValueError(f"n_labeled = {n_labeled} needs labeled_fisher, a ({k}, {k}) matrix")
    if n < (1 + backward_steps) * n_select:
        warnings.warn(
            f"backward_steps={backward_steps} picks {(1 + backward_steps) * n_select} samples "
            f"before it drops any, but the pool holds {n}: all of them are picked first",
            UserWarning,
            stacklevel=caller_level(),
        )
    if factors.dtype in (torch.float16, torch.bfloat16):
        factors = factors.to(dtype=torch.float32)
    if fisher is None:
        fisher = factors.fisher()
    if factors.device.type != "cpu" and not _runs_on(factors.device):
        _logger.info("selection runs on the CPU: copying gradients from %s", factors.device)
        factors, fisher = factors.to("cpu"), fisher.cpu()
        labeled_fisher = None if labeled_fisher is None else labeled_fisher.cpu()
    problem = Problem(fisher, labeled_fisher, lamb, n_labeled, n_select)
    return factors, problem, backward_steps


def _runs_on(device: torch.device) -> bool:
    return device.type == "cuda" and has_cuda_ops()


def _select(
    factors: GradientFactors,
    problem: Problem,
    backward_steps: int,
    *,
    always_float64: bool,
    block_size: int | None,
    chunk_size: int | None,
    progress: bool,
) -> Selection:
    n_select = problem.n_select
    n_forward = min((1 + backward_steps) * n_select, len(factors))
    n_drop = n_forward - n_select
    kind = BlockEngine if factors.device.type == "cuda" else Engine
    with _progress_bar(n_forward + n_drop, progress) as advance:
        pool = Candidates(factors, problem.scale, 1, chunk_size)
        forward = kind(problem, pool, always_float64=always_float64, block_size=block_size)
        forward.run(n_forward, advance)
        changes = list(forward.changes)
        removed: list[int] = []
        setups, passes = forward.setups, forward.passes
        if n_drop:
            picked = Candidates(pool.rows(forward.taken), problem.scale, -1, chunk_size)
            backward = kind(problem, picked, always_float64=True, block_size=block_size)
            backward.run(n_drop, advance)
            removed = backward.taken
            changes += backward.changes
            setups, passes = setups + backward.setups, passes + backward.passes
    dropped = set(removed)
    kept = [at for at in range(n_forward) if at not in dropped]
    steps = [forward.objective, *(-change for change in changes)]
    return Selection(
        indices=torch.tensor([forward.taken[at] for at in kept], dtype=torch.int64),
        scores=torch.tensor([forward.changes[at] for at in kept], dtype=torch.float64),
        objective=torch.tensor(steps, dtype=torch.float64).cumsum(0),
        dropped=torch.tensor([forward.taken[at] for at in removed], dtype=torch.int64),
        setups=setups,
        passes=passes,
    )


@contextmanager
def _progress_bar(total: int, wanted: bool) -> Iterator[Callable[[int], object] | None]:
    if not wanted:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    with tqdm(total=total, unit=" picks", desc="selection", leave=False) as bar:
        yield bar.update
