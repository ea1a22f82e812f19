"""Sums of V_x^T V_x over samples, with V_x = [middle | coupling kron hidden].

The head's blocks are weighted Gram matrices of its input: with S_x = coupling_x^T coupling_x,

    sum_x V_x^T V_x = [ sum middle^T middle           .             ]
                      [ sum (coupling^T middle) h     sum S_ab h h^T ]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fishermask_fast.arrays import as_tensor, sample_numbers
from fishermask_fast.factors.quadratic_forms import packed_square
from fishermask_fast.ops import FactorTensors
from fishermask_fast.triangles import add_to_lower, mirror_lower, unpacked


class Chunk(Protocol):
    """Factors of some samples, in memory."""

    def add_gram(self, total: Tensor) -> None: ...

    def add_weighted_gram(self, total: Tensor, weights: Tensor) -> None: ...

    def __len__(self) -> int: ...


class Chunked(Protocol):
    """Factors of N samples that come in chunks, with the index of each one's first sample."""

    def __len__(self) -> int: ...

    @property
    def n_columns(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, Chunk]]: ...


@torch.no_grad()
def mean_gram(factors: Chunked, chunk_size: int | None = None, weights: object = None) -> Tensor:
    """F = sum_x w_x V_x^T V_x / sum_x w_x, symmetric (k, k) float64, wherever the factors lie.

    Args:
        factors: of N samples.
        chunk_size: samples at a time.
        weights: (N,) numbers of 0 or more; None weighs all alike.

    Raises:
        TypeError: weights that are no numbers.
        ValueError: there are no samples, or weights of another shape, negative, not finite, or all
            zero.
    """
    if len(factors) == 0:
        raise ValueError("a Fisher matrix needs at least one sample; got an empty pool")
    w = check_weights(weights, len(factors), factors.device)
    k = factors.n_columns
    total = torch.zeros(k, k, dtype=torch.float64, device=factors.device)
    for start, chunk in factors.chunks(chunk_size):
        if w is None:
            chunk.add_gram(total)
        else:
            chunk.add_weighted_gram(total, w[start : start + len(chunk)])
    return mirror_lower(total).div_(len(factors) if w is None else float(w.sum()))


def check_weights(
    given: object, n: int, device: torch.device, name: str = "weights"
) -> Tensor | None:
    """Weights of n samples, (n,) float64 on the device; None for none.

    Raises:
        TypeError, ValueError: see mean_gram.
    """
    weights = as_tensor(name, given)
    if weights is None:
        return None
    expected = f"a Tensor of shape ({n},)"
    weights = sample_numbers(name, weights, n, expected, above_zero=False).to(device)
    if not bool(weights.any()):
        raise ValueError(f"{name} must not all be zero")
    return weights


def add_gram(total: Tensor, chunk: FactorTensors) -> None:
    """Add sum_x V_x^T V_x to the lower triangle of `total` (k, k)."""
    n, r, m = chunk.middle.shape
    rows = chunk.middle.reshape(n * r, m)
    add_to_lower(total, rows, rows)
    if chunk.coupling is None or chunk.hidden is None:
        return
    c, d = chunk.coupling.shape[2], chunk.hidden.shape[1]
    crossed = torch.bmm(chunk.coupling.transpose(1, 2), chunk.middle)  # (n, C, m)
    cross = chunk.hidden.T @ crossed.view(n, c * m)  # (d, C m)
    cross = cross.view(d, c, m).transpose(0, 1).reshape(c * d, m)
    inner = torch.bmm(chunk.coupling.transpose(1, 2), chunk.coupling)  # (n, C, C)
    if chunk.head_index is None:
        index = torch.arange(c * d, device=total.device)
    else:
        index = chunk.head_index
        cross = cross[index]
    total[m:, :m] += cross
    head = total[m:, m:]
    if c == 1:  # nothing repeats, and a plain product needs no triangles
        whole = (inner[:, 0] * chunk.hidden).T @ chunk.hidden
        head += whole if chunk.head_index is None else whole[index][:, index]
        return
    lower = torch.tril_indices(c, c, device=total.device)
    sums = inner[:, lower[0], lower[1]].T @ packed_square(chunk.hidden)  # (pairs, packed)
    # Class by class: blocks of all pairs together are (C d)^2 numbers, however few are masked.
    ends = torch.searchsorted(index, torch.arange(c + 1, device=total.device) * d).tolist()
    for a in range(c):
        rows = index[ends[a] : ends[a + 1]] - a * d
        pairs = sums[a * (a + 1) // 2 : (a + 1) * (a + 2) // 2]
        blocks = unpacked(pairs, d)[:, rows]  # (a + 1, rows, d)
        strip = blocks.transpose(0, 1).reshape(len(rows), (a + 1) * d)
        columns = index[: ends[a + 1]]
        head[ends[a] : ends[a + 1], : ends[a + 1]] += strip[:, columns]
