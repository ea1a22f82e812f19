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

# Of a head's blocks that are made together.
_STRIP_NUMBERS = 2**23


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
    index = chunk.head_index
    total[m:, :m] += cross if index is None else cross[index]
    head = total[m:, m:]
    if c == 1:  # nothing repeats, and a plain product needs no triangles
        whole = (inner[:, 0] * chunk.hidden).T @ chunk.hidden
        head += whole if index is None else whole[index][:, index]
        return
    lower = torch.tril_indices(c, c, device=total.device)
    sums = inner[:, lower[0], lower[1]].T @ packed_square(chunk.hidden)  # (pairs, packed)
    strips = _strips(c, d)
    ends = _ends(index, c, d, len(strips) > 1)
    for first, last in strips:
        pairs = slice(first * (first + 1) // 2, last * (last + 1) // 2)
        blocks = unpacked(sums[pairs], d)[None]
        if last - first > 1:
            rest = total.new_zeros(last - first, last, d, d)
            rest[lower[0, pairs] - first, lower[1, pairs]] = blocks[0]
            blocks = rest
        if index is None:
            strip = blocks.transpose(1, 2).reshape((last - first) * d, last * d)
        else:
            rows, columns = index[ends[first] : ends[last], None] - first * d, index[: ends[last]]
            strip = blocks[rows // d, columns // d, rows % d, columns % d]
        head[ends[first] : ends[last], : ends[last]] += strip


def _strips(c: int, d: int) -> list[tuple[int, int]]:
    """Classes whose blocks with all before them are made together, from first to last.

    All blocks at once are (C d)^2 numbers, however few of the head's entries are masked.
    """
    found, first = [], 0
    while first < c:
        last = first + 1
        while last < c and (last + 1 - first) * (last + 1) * d * d <= _STRIP_NUMBERS:
            last += 1
        found.append((first, last))
        first = last
    return found


def _ends(index: Tensor | None, c: int, d: int, all_classes: bool) -> list[int]:
    """Where the columns of each class begin and the last one's end; a look at `index` is for many.

    With one strip only the first and the last count, which need none.
    """
    if index is None:
        return [a * d for a in range(c + 1)]
    if not all_classes:
        return [0] + [len(index)] * c
    return torch.searchsorted(index, torch.arange(c + 1, device=index.device) * d).tolist()
