"""The products that a selection takes with factors in memory, in the cheapest form for each.

What the head repeats is never stored or expanded: for the head's part of V_x times a matrix S, rows
(c, j),

    (coupling_x kron hidden_x) S = sum_c coupling_x[:, c] (hidden_x S[c])

and a head of which few entries are masked is multiplied by these entries, or as plain columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fishermask_fast.factors import grams, masked_head
from fishermask_fast.factors.quadratic_forms import WideForms, scatter_rows
from fishermask_fast.ops import FactorTensors, forms
from fishermask_fast.triangles import on_cpu

# Working memory of a set-up, and samples of it at most; a GPU needs more of both to be busy.
_CHUNK_BYTES = 32 * 2**20
_CHUNK_SAMPLES = 4096
_GPU_CHUNK_FACTOR = 16


class Factors(FactorTensors, Protocol):
    """What products ask of factors in memory; GradientFactors are such."""

    def __len__(self) -> int: ...

    @property
    def n_rows(self) -> int: ...

    @property
    def head_size(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, Factors]]: ...

    def to(self, *, dtype: torch.dtype) -> Factors: ...

    def dense(self) -> Tensor: ...


@dataclass(frozen=True)
class _Dense:
    """Factors as plain columns alone."""

    middle: Tensor
    coupling: None = None
    hidden: None = None
    head_index: None = None

    @property
    def n_columns(self) -> int:
        return self.middle.shape[2]


def add_gram(factors: Factors, total: Tensor) -> None:
    """Add sum_x V_x^T V_x to the lower triangle of `total` (k, k) float64."""
    masked = _masked_head(factors)
    if masked is not None:
        masked_head.add_gram(total, *masked)
        return
    size = chunk_size(factors)
    if factors.coupling is not None and factors.coupling.shape[2] == 1:
        size = _CHUNK_SAMPLES
    for _, chunk in factors.chunks(size):
        grams.add_gram(total, _double(chunk))


def row_grams(factors: Factors) -> Tensor:
    """V_x V_x^T for every sample, (N, r, r) float64."""
    n, r = len(factors), factors.n_rows
    out = torch.empty(n, r, r, dtype=torch.float64, device=factors.device)
    size = chunk_size(factors)
    for start in range(0, n, size):
        middle = factors.middle[start : start + size].double()
        torch.bmm(middle, middle.transpose(1, 2), out=out[start : start + size])
    if factors.coupling is not None and factors.hidden is not None:
        coupling, squares = factors.coupling.double(), factors.hidden.double().square()
        if factors.head_index is None:
            norms = squares.sum(1)[:, None, None]  # of h, the same for every class
        else:
            masked = squares.new_zeros(factors.head_size)
            masked[factors.head_index] = 1.0
            norms = (squares @ masked.view(coupling.shape[2], -1).T)[:, None, :]
        out += (coupling * norms) @ coupling.transpose(1, 2)
    return out


def quadratic_forms(
    factors: Factors, matrices: Sequence[Tensor], samples: int | None
) -> list[Tensor]:
    """V_x Q V_x^T for every sample and each symmetric (k, k) float64 Q, (N, r, r) float64 each.

    Args:
        factors: of N samples.
        matrices: the Qs.
        samples: at a time where they need working memory; None for the default.
    """
    masked = _masked_head(factors)
    if masked is not None:
        return [masked_head.quadratic_form(q, *masked) for q in matrices]
    n, r = len(factors), factors.n_rows
    size = samples or chunk_size(factors)
    if on_cpu(factors.middle):
        parts = [
            forms.quadratic_forms(_compact(_wide_enough(chunk)), matrices)
            for _, chunk in factors.chunks(size if _compact_is_dense(factors) else None)
        ]
        return list((parts[0] if len(parts) == 1 else torch.cat(parts, 1)).unbind())
    out = [torch.empty(n, r, r, dtype=torch.float64, device=factors.device) for _ in matrices]
    wide_forms: WideForms | None = None
    for start, chunk in factors.chunks(size):
        wide = _double(chunk)
        wide_forms = wide_forms or WideForms(matrices, wide)
        for result, values in zip(out, wide_forms(wide), strict=True):
            result[start : start + size] = values
    return out


def times(factors: Factors, matrix: Tensor) -> Tensor:
    """V_x S for every sample and a (k, q) float64 matrix S, as (N, r, q) float64."""
    chunk = _double(factors)
    n, r, q = len(factors), factors.n_rows, matrix.shape[1]
    m = chunk.middle.shape[2]
    out = (chunk.middle.reshape(n * r, m) @ matrix[:m]).view(n, r, q)
    if chunk.coupling is not None and chunk.hidden is not None:
        head = scatter_rows(matrix[m:], chunk)  # (C, d, q)
        inner = torch.matmul(chunk.hidden, head)  # (C, n, q)
        out += torch.matmul(chunk.coupling, inner.transpose(0, 1))
    return out


def chunk_size(factors: Factors) -> int:
    """Samples whose working memory in set-up stays near 32 MiB, on a GPU 512 MiB."""
    r, m = factors.n_rows, factors.middle.shape[2]
    numbers = 3 * r * m
    if factors.coupling is not None and factors.hidden is not None:
        c, d = factors.coupling.shape[2], factors.hidden.shape[1]
        numbers += 2 * c * m + c * c + d * (d + 1) // 2
        if factors.head_index is not None:
            numbers += 3 * r * factors.head_index.numel()
    factor = 1 if on_cpu(factors.middle) else _GPU_CHUNK_FACTOR
    at_once = factor * _CHUNK_BYTES // (8 * max(numbers, 1))
    return max(1, min(factor * _CHUNK_SAMPLES, at_once))


def _masked_head(factors: Factors) -> tuple[Tensor, Tensor, Tensor] | None:
    """coupling, hidden and head_index where products go by the head's masked entries."""
    if factors.coupling is None or factors.hidden is None or factors.head_index is None:
        return None
    width = factors.hidden.shape[1]
    if not masked_head.suits(factors.middle, factors.coupling, factors.head_index, width):
        return None
    return factors.coupling, factors.hidden, factors.head_index


def _compact_is_dense(factors: Factors) -> bool:
    """Whether plain columns are cheaper to multiply with than the Kronecker form.

    A head of which only a few entries are masked costs C^2 d^2 in Kronecker form and r k_head^2 as
    plain columns. A GPU's products in that form hold matrices of the whole head, which may outgrow
    those of the masked parameters.
    """
    if factors.head_index is None:
        return False
    kronecker = factors.head_size**2 / 2
    if not on_cpu(factors.middle) and kronecker > factors.n_columns**2:
        return True
    return kronecker > 2 * factors.n_rows * factors.head_index.numel() ** 2


def _compact(factors: Factors) -> FactorTensors:
    """The same, or dense where that is the cheaper form to multiply with."""
    return _Dense(factors.dense()) if _compact_is_dense(factors) else factors


def _double(factors: Factors) -> FactorTensors:
    """As `_compact`, in float64."""
    if _compact_is_dense(factors):
        return _Dense(factors.dense().double())
    return factors.to(dtype=torch.float64)


def _wide_enough(factors: Factors) -> Factors:
    """The same, or float32 where it is narrower: the dtypes that ops know."""
    known = factors.dtype in (torch.float32, torch.float64)
    return factors if known else factors.to(dtype=torch.float32)
