"""The compiled ops of the set-up: V Q V^T of every sample, and sums over a head's masked entries.

What each op computes is defined in ``reference``; importing this module loads them (``loading``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fishermask_fast.ops import loading  # noqa: F401  registers the ops
from fishermask_fast.ops.selection import FactorTensors, contiguous_parts


def quadratic_forms(factors: FactorTensors, matrices: Sequence[Tensor]) -> Tensor:
    """V_x Q V_x^T of every sample and each symmetric Q, on the CPU.

    Args:
        factors: N samples; float32 or float64.
        matrices: (k, k) float64, of which the lower triangles are read.

    Returns:
        (matrices, N, r, r) float64.
    """
    result: Tensor = torch.ops.fishermask_fast.quadratic_forms(
        *contiguous_parts(factors), [matrix.contiguous() for matrix in matrices]
    )
    return result


@torch.library.register_fake("fishermask_fast::quadratic_forms")  # type: ignore[untyped-decorator]
def _quadratic_forms_fake(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    matrices: list[Tensor],
) -> Tensor:
    n, r, _ = middle.shape
    return middle.new_empty(len(matrices), n, r, r, dtype=torch.float64)


def masked_head_gram(coupling: Tensor, hidden: Tensor, starts: Tensor, total: Tensor) -> None:
    """Adds sum_x V_x^T V_x of a head's masked entries to the lower triangle of `total`.

    Args:
        coupling: (C, r, n) float64, coupling_x^T with samples last.
        hidden: (k, n) float64, the input of each masked entry.
        starts: (C + 1,) int64, where each class starts among the entries.
        total: (k, k) float64, changed in place.

    Raises:
        ValueError: samples that are no multiple of 16, or a `total` that is not contiguous.
    """
    _check_samples_last(hidden)
    if not total.is_contiguous():
        raise ValueError("total must be contiguous, as it is changed in place")
    torch.ops.fishermask_fast.masked_head_gram(
        coupling.contiguous(), hidden.contiguous(), starts.contiguous(), total
    )


@torch.library.register_fake("fishermask_fast::masked_head_gram")  # type: ignore[untyped-decorator]
def _gram_fake(coupling: Tensor, hidden: Tensor, starts: Tensor, total: Tensor) -> None:
    return None


def masked_head_forms(hidden: Tensor, starts: Tensor, matrix: Tensor) -> Tensor:
    """T_x[a, b] = sum over the entries e of class a and f of class b of h_e Q_ef h_f.

    Args:
        hidden: (k, n) float64, the input of each masked entry.
        starts: (C + 1,) int64, where each class starts among the entries.
        matrix: (k, k) float64, Q.

    Returns:
        (C, C, n) float64.

    Raises:
        ValueError: samples that are no multiple of 16.
    """
    _check_samples_last(hidden)
    result: Tensor = torch.ops.fishermask_fast.masked_head_forms(
        hidden.contiguous(), starts.contiguous(), matrix.contiguous()
    )
    return result


@torch.library.register_fake("fishermask_fast::masked_head_forms")  # type: ignore[untyped-decorator]
def _forms_fake(hidden: Tensor, starts: Tensor, matrix: Tensor) -> Tensor:
    classes = starts.shape[0] - 1
    return hidden.new_empty(classes, classes, hidden.shape[1])


def _check_samples_last(hidden: Tensor) -> None:
    if hidden.shape[1] % 16:
        raise ValueError(
            f"samples must be padded to a multiple of 16; hidden has shape {tuple(hidden.shape)}"
        )
