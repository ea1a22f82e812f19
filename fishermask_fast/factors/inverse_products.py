"""V_x, V_x M^-1 and V_x G of some samples by products of torch: the op's kernel on a GPU.

The definition is ``reference``'s; the CPU has a compiled one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.ops import loading  # noqa: F401  the op that this is a kernel of
from fishermask_fast.triangles import mirrored

# Columns at a time: a copy of M^-1 or G could take more memory than there is.
_BLOCK = 4096


def inverse_products_by_torch(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    first: Tensor,
    second: Tensor,
    u: Tensor,
    w: Tensor,
    scale: float,
    sign: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``ops.selection.inverse_products``."""
    chosen = GradientFactors(middle, coupling, hidden, head_index)[index].to(dtype=torch.float64)
    rows = chosen.dense() * scale
    p, r = rows @ u.T * -sign, rows @ w.T * -sign
    y, z = (_times_symmetric(rows.flatten(0, 1), s).view_as(rows) for s in (first, second))
    return rows, y + p @ u, z + (r @ u + p @ w)


torch.library.impl("fishermask_fast::inverse_products", "CUDA", inverse_products_by_torch)


def _times_symmetric(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix, of which only the lower triangle is read."""
    out = rows.new_empty(rows.shape)
    for start in range(0, matrix.shape[0], _BLOCK):
        stop = start + _BLOCK
        block = matrix[start:stop, start:stop]
        columns = out[:, start:stop]
        torch.mm(rows[:, start:stop], mirrored(block), out=columns)
        if start:
            columns.addmm_(rows[:, :start], matrix[start:stop, :start].T)
        if stop < matrix.shape[0]:
            columns.addmm_(rows[:, stop:], matrix[stop:, start:stop])
    return out
