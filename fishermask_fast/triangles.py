"""Symmetric matrices of which only the lower triangle is worked out, kept or read.

    S = L + L^T - diag(L),   packed: (r (r + 1) / 2) numbers, row after row

Half of what is symmetric is left out of products, where matrices are large by blocks of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Columns of a product at a time: on a CPU as many as its caches hold, on a GPU enough for all of
# its processors.
_BLOCK = 256
_GPU_BLOCK = 4096


def on_cpu(tensor: Tensor) -> bool:
    """Whether products are best many and small, in a CPU's caches; a GPU wants few, wide ones."""
    return tensor.device.type == "cpu"


def columns_at_once(tensor: Tensor) -> int:
    """Columns of one product of a blocked one."""
    return _BLOCK if on_cpu(tensor) else _GPU_BLOCK


def add_to_lower(matrix: Tensor, x: Tensor, y: Tensor, factor: float = 1.0) -> None:
    """matrix += factor X^T Y, which is symmetric, in the lower triangle and diagonal blocks."""
    k, step = x.shape[1], columns_at_once(matrix)
    for start in range(0, k, step):
        stop = min(start + step, k)
        matrix[start:stop, :stop].addmm_(x[:, start:stop].T, y[:, :stop], alpha=factor)


def mirror_lower(matrix: Tensor) -> Tensor:
    """The matrix (k, k), its upper triangle made from its lower one in place."""
    step = columns_at_once(matrix)
    for start in range(0, matrix.shape[0], step):
        stop = start + step
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        block = matrix[start:stop, start:stop]
        block.copy_(mirrored(block))
    return matrix


def mirrored(lower: Tensor) -> Tensor:
    """The symmetric matrices of lower triangles (..., k, k); what stands above is not read."""
    return lower.tril() + lower.tril(-1).mT


def packed(matrices: Tensor) -> Tensor:
    """The lower triangles of matrices (..., r, r), as (..., r (r + 1) / 2)."""
    rows, columns = torch.tril_indices(*matrices.shape[-2:], device=matrices.device)
    return matrices[..., rows, columns]


def unpacked(triangles: Tensor, r: int) -> Tensor:
    """Symmetric matrices (n, r, r) of packed lower triangles (n, r (r + 1) / 2)."""
    rows, columns = torch.tril_indices(r, r, device=triangles.device)
    out = triangles.new_empty(len(triangles), r, r)
    out[:, rows, columns] = triangles
    out[:, columns, rows] = triangles
    return out
