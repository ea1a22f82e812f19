"""Greedy batch selection: the picks that most reduce tr(M^-1 F).

With M = lamb I + F_L n_L / (n_L + K) and V_x scaled by sqrt(K / (n_L + K)), K times the unpicked
sample with the largest score is picked and enters M (FisherMask, arXiv 2411.05752; BAIT, Ash et
al. 2021):

    score(x) = tr( V_x M^-1 F M^-1 V_x^T A_x^-1 ),  A_x = I + V_x M^-1 V_x^T;   M <- M + V_x^T V_x

With backward_steps = b, (1 + b) K are picked and then dropped one at a time, the one whose removal
raises tr(M^-1 F) least first, until K are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fishermask_fast.arithmetic import full_float32
from fishermask_fast.arrays import Array, like
from fishermask_fast.checks import LAMB, check_flag
from fishermask_fast.distributed import Exchange, Given, select_from_shards
from fishermask_fast.engine import (
    Options,
    Selection,
    as_source,
    check_clusters,
    check_device,
    check_gains,
    check_matrices,
    computable,
    select_greedily,
)
from fishermask_fast.factors import EmbeddingFactors, GradientFactors, StoredFactors

if TYPE_CHECKING:  # builds of torch without torch.distributed lack it
    from torch.distributed import ProcessGroup

__all__ = ["Selection", "fast_select", "select_batch"]


def fast_select(
    gradients: Tensor | GradientFactors | StoredFactors | EmbeddingFactors | Array,
    n_select: int,
    fisher: Tensor | Array | None = None,
    labeled_fisher: Tensor | Array | None = None,
    *,
    lamb: float | str = LAMB,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    prior_precision: float | str | None = None,
    gain_weights: Tensor | Array | Sequence[float] | None = None,
    pending: Tensor | Array | Sequence[int] | None = None,
    exclude: Tensor | Array | Sequence[int] | None = None,
    cluster_ids: Tensor | Array | Sequence[int] | None = None,
    max_per_cluster: int | None = None,
    criterion: str = "trace",
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
        prior_precision=prior_precision,
        gain_weights=gain_weights,
        pending=pending,
        exclude=exclude,
        cluster_ids=cluster_ids,
        max_per_cluster=max_per_cluster,
        criterion=criterion,
    )
    return like(gradients, selection.indices)


def select_batch(
    gradients: Tensor | GradientFactors | StoredFactors | EmbeddingFactors | Array | None,
    n_select: int,
    fisher: Tensor | Array | None = None,
    labeled_fisher: Tensor | Array | None = None,
    *,
    lamb: float | str = LAMB,
    n_labeled: int = 0,
    backward_steps: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    prior_precision: float | str | None = None,
    gain_weights: Tensor | Array | Sequence[float] | None = None,
    pending: Tensor | Array | Sequence[int] | None = None,
    exclude: Tensor | Array | Sequence[int] | None = None,
    cluster_ids: Tensor | Array | Sequence[int] | None = None,
    max_per_cluster: int | None = None,
    criterion: str = "trace",
    block_size: int | None = None,
    precision: str = "mixed",
    device: torch.device | str | None = None,
    group: ProcessGroup | None = None,
    sample_indices: Tensor | None = None,
) -> Selection:
    """Select the batch that most reduces tr(M^-1 F), with its scores.

    The picks are those of the formula computed in float64 throughout, ties by lowest index,
    whatever `chunk_size`, `block_size`, `precision`, `device` and `group` are; these change only
    time and memory.

    Args:
        gradients: of the unlabeled pool: V as a (N, r, k) tensor of float16, bfloat16, float32 or
            float64, strided in any way, or an array that speaks `__dlpack__` or `__array__`, or
            GradientFactors, or StoredFactors, which are read from their file in chunks. On a GPU
            the selection runs there; where the ops were not built for it, on the CPU, from a copy.
        n_select: K, how many to select; 1..N.
        fisher: (k, k) F, of any floating dtype, a tensor or an array: whose uncertainty is to fall,
            such as `GradientFactors.fisher(weights=)` of other samples; None for the mean of
            V_x^T V_x over the pool, the samples that are never picked among them.
        labeled_fisher: (k, k) F_L, the mean over the labeled samples; None where there are none.
        lamb: lambda of M, above 0; "auto" for 0.1 tr(F) / k.
        n_labeled: n_L, how many samples are labeled.
        backward_steps: b; 1 is BAIT's. Where N < (1 + b) K all N are picked first, with a warning.
        chunk_size: samples at a time where a set-up needs working memory (on a GPU, or for a few
            masked entries of a large head); None for about 32 MiB of it, on a GPU 512 MiB.
        progress: show a bar (needs tqdm).
        prior_precision: instead of lamb, M in sums: M = prior_precision I + n_L F_L + the picks'
            V_x^T V_x, the posterior precision of Laplace's approximation (laplace-torch's word), a
            number above 0, or "auto" for tr(F) / k, what one sample tells of a parameter.
        gain_weights: (N,) factors above 0, by which the gain of each sample counts, and in backward
            steps what its removal costs: 1 / cost, trust, recency. `scores` are without them.
        pending: indices of samples that are at the annotators: they are in M from the start, like
            picks, and are not picked (BoTorch's X_pending).
        exclude: indices of samples that are not picked.
        cluster_ids: (N,) integers: the video, the patient, the group of duplicates that a sample
            is of; for names, `numpy.unique(names, return_inverse=True)[1]`.
        max_per_cluster: how many of a cluster may be picked, the pending ones counted, at any time
            of the forward pass and so after the backward one.
        criterion: "trace"; or "logdet" for D-optimal picks: what rises is log det M, a pick's gain
            log det A_x, and F plays no part.
        block_size: picks verified by one pass over the pool; None adapts it.
        precision: "mixed" takes products in float32 once scores have fallen and float32 gradients
            allow it; "float64" never does.
        device: where to compute; None for where the gradients are. Gradients in host memory or in a
            file that a GPU has no room for come to it in chunks, best from pinned memory.
        group: a torch.distributed process group whose ranks each hold a shard of the pool. Every
            rank calls this with its own `gradients` (None where it has no samples) and the same
            other arguments; `fisher` and `labeled_fisher` count on rank 0, `gain_weights` and
            `cluster_ids` are those of the rank's own samples, `pending` and `exclude` name places
            in the whole pool. All ranks get the whole selection.
        sample_indices: (n,) int64, the places of this rank's samples in the whole pool, ascending;
            all ranks' together are 0..N-1. None numbers the ranks' samples one after another.

    Returns:
        The selection; its tensors are on the CPU.

    Raises:
        TypeError: an argument of another type or dtype than stated.
        ValueError: shapes or devices that do not fit, numbers out of range, NaN or Inf, matrices
            that are not symmetric or too large for memory, an empty pool, more picks than may be
            picked, lamb together with prior_precision, cluster_ids without max_per_cluster,
            "logdet" together with fisher; on any rank of a group.
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
        check_flag("progress", progress)
        return Options.checked(
            n_select,
            lamb,
            n_labeled,
            backward_steps,
            chunk_size,
            block_size,
            precision,
            prior_precision=prior_precision,
            criterion=criterion,
            max_per_cluster=max_per_cluster,
            pending=pending,
            exclude=exclude,
        )

    with torch.no_grad(), full_float32():
        if group is not None:
            exchange = Exchange(group)
            given = Given(
                gradients, sample_indices, fisher, labeled_fisher, device, gain_weights, cluster_ids
            )
            return select_from_shards(exchange, given, options, progress)
        if sample_indices is not None:
            raise ValueError("sample_indices number the samples of a group's ranks; got no group")
        asked, source = options(), as_source(gradients)
        where, n = check_device(device, source), len(source)
        rules = asked.rules(n, check_gains(gain_weights, n), check_clusters(cluster_ids, n))
        asked.check_pool(source, n, where, rules)
        f, f_labeled = check_matrices(
            source, fisher, labeled_fisher, asked.n_labeled, asked.criterion
        )
        factors = computable(source, where)
        f = asked.needed_fisher(factors) if f is None else f
        problem = asked.problem(f, f_labeled, where)
        pool = asked.candidates(factors, problem, rules, n)
        return select_greedily(pool, problem, asked, factors.dtype, progress, rules)
