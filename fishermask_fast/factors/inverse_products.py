"""V_x, V_x M^-1 and V_x G of some samples by products of torch: the op's kernel on a GPU.

The definition is ``reference``'s; the CPU has a compiled one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.ops import loading  # noqa: F401  the op that this is a kernel of


@torch.library.impl("fishermask_fast::inverse_products", "CUDA")
def _inverse_products_cuda(
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
    chosen = GradientFactors(middle, coupling, hidden, head_index)[index].to(dtype=torch.float64)
    rows = chosen.dense() * scale
    p, r = rows @ u.T * -sign, rows @ w.T * -sign
    y, z = (chosen.times(s.tril() + s.tril(-1).T) * scale for s in (first, second))
    return rows, y + p @ u, z + (r @ u + p @ w)
