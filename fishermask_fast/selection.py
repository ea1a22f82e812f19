"""Greedy batch selection: the picks that most reduce tr(M^-1 F).

With M = lamb I + F_L n_L / (n_L + K) and V_x scaled by sqrt(K / (n_L + K)), K times the unpicked
sample with the largest score is picked and enters M (FisherMask, arXiv 2411.05752; BAIT, Ash et
al. 2021):

    score(x) = tr( V_x M^-1 F M^-1 V_x^T A_x^-1 ),  A_x = I + V_x M^-1 V_x^T;   M <- M + V_x^T V_x

With backward_steps = b, (1 + b) K are picked and then dropped one at a time, the one whose removal
raises tr(M^-1 F) least first, until K are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fishermask_fast.arrays import Array, like
from fishermask_fast.checks import check_flag
from fishermask_fast.distributed import Exchange, select_from_shards
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
from fishermask_fast.factors import GradientFactors, StoredFactors

if TYPE_CHECKING:  # builds of torch without torch.distributed lack it
    from torch.distributed import ProcessGroup

__all__ = ["Selection", "fast_select", "select_batch"]


def fast_select(
    gradients: Tensor | GradientFactors | StoredFactors | Array,
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

    Example:
        >>> import torch
        >>> gradients = torch.zeros(4, 1, 4)  # of four samples, each about a parameter of its own
        >>> gradients[range(4), 0, range(4)] = torch.tensor([1.0, 3.0, 0.0, 2.0])
        >>> from fishermask_fast import fast_select
        >>> fast_select(gradients, 2)
        [1, 3]
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
    gradients: Tensor | GradientFactors | StoredFactors | Array | None,
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
    device: torch.device | str | None = None,
    group: ProcessGroup | None = None,
    sample_indices: Tensor | None = None,
) -> Selection:
    """Select the batch that most reduces tr(M^-1 F), with its scores.

    The picks are those of the formula computed in float64 throughout, ties by lowest index,
    whatever the options below; these change only time and memory.

    Args:
        gradients: of the unlabeled pool: V as a (N, r, k) tensor of float16, bfloat16, float32 or
            float64, strided in any way, or an array that speaks `__dlpack__` or `__array__`, or
            GradientFactors, or StoredFactors, which are read from their file in chunks. On a GPU
            the selection runs there; where the ops were not built for it, on the CPU, from a copy.
        n_select: K, how many to select; 1..N.
        fisher: (k, k) F, of any floating dtype, a tensor or an array; None for the mean of
            V_x^T V_x over the pool.
        labeled_fisher: (k, k) F_L, the mean over the labeled samples; None where there are none.
        lamb: lambda of M, above 0.
        n_labeled: n_L, how many samples are labeled.
        backward_steps: b; 1 is BAIT's. Where N < (1 + b) K all N are picked first, with a warning.
        chunk_size: samples at a time where a set-up needs working memory (on a GPU, or for a few
            masked entries of a large head); None for about 32 MiB of it, on a GPU 512 MiB.
        progress: show a bar (needs tqdm).
        block_size: picks verified by one pass over the pool; None adapts it.
        precision: "mixed" takes products in float32 once scores have fallen and float32 gradients
            allow it; "float64" never does.
        device: where to compute; None for where the gradients are. Gradients in host memory or in a
            file that a GPU has no room for come to it in chunks, best from pinned memory.
        group: a torch.distributed process group whose ranks each hold a shard of the pool. Every
            rank calls this with its own `gradients` (None where it has no samples) and the same
            other arguments; `fisher` and `labeled_fisher` count on rank 0. All ranks get the whole
            selection.
        sample_indices: (n,) int64, the places of this rank's samples in the whole pool, ascending;
            all ranks' together are 0..N-1. None numbers the ranks' samples one after another.

    Returns:
        The selection; its tensors are on the CPU.

    Raises:
        TypeError: an argument of another type or dtype than stated.
        ValueError: shapes or devices that do not fit, numbers out of range, NaN or Inf, matrices
            that are not symmetric or too large for memory, an empty pool; on any rank of a group.
        RuntimeError: a process of the group has died, or does not answer within its timeout.

    Example:
        >>> import torch
        >>> gradients = torch.zeros(4, 1, 4)  # of four samples, each about a parameter of its own
        >>> gradients[range(4), 0, range(4)] = torch.tensor([1.0, 3.0, 0.0, 2.0])
        >>> from fishermask_fast import select_batch
        >>> selection = select_batch(gradients, 2)
        >>> [(i, round(score, 3)) for i, score in zip(selection, selection.scores.tolist())]
        [(1, 2.025), (3, 0.8)]
    """

    def options() -> Options:
        return Options.checked(
            n_select, lamb, n_labeled, backward_steps, chunk_size, block_size, precision
        )

    check_flag("progress", progress)
    with torch.no_grad():
        if group is not None:
            exchange = Exchange(group)
            given = (gradients, sample_indices, fisher, labeled_fisher, device)
            return select_from_shards(exchange, *given, options, progress)
        if sample_indices is not None:
            raise ValueError("sample_indices number the samples of a group's ranks; got no group")
        asked, source = options(), as_source(gradients)
        where = check_device(device, source)
        asked.check_pool(source, len(source), where)
        f, f_labeled = check_matrices(source, fisher, labeled_fisher, asked.n_labeled)
        factors = computable(source, where)
        problem = asked.problem(mean_fisher(factors) if f is None else f, f_labeled, where)
        pool = LocalCandidates(factors, problem.scale, 1, asked.chunk_size)
        return select_greedily(pool, problem, asked, factors.dtype, progress)
