"""Per-sample gradient factors, and the products the selection takes with them.

A sample's factor is V_x = [ middle_x | (coupling_x kron hidden_x)[head_index] ], an r x k matrix
with V_x^T V_x = E_{y~p}[g g^T], the sample's Fisher information on the masked parameters. What the
head repeats is never stored or expanded: for the head's part of V_x times a matrix S, rows (c, j),

    (coupling_x kron hidden_x) S = sum_c coupling_x[:, c] (hidden_x S[c])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHUNK_BYTES = 128 * 2**20
_BLOCK = 256


@dataclass(frozen=True)
class GradientFactors:
    """The masked gradients of N samples, with the head kept as a Kronecker product.

    Attributes:
        middle: (N, r, k_mid) masked gradients outside the head; k_mid may be 0.
        coupling: (N, r, C) cotangents at the head's output, or None where no head is kept apart.
        hidden: (N, d) inputs of the head; a biased head has a last column of ones.
        head_index: (k_head,) int64, sorted positions c * d + j of the masked entries in the (C, d)
            head; None means all C * d of them.

    Raises:
        TypeError: a part is not a floating-point tensor, or the parts differ in dtype.
        ValueError: shapes or devices do not fit together.
    """

    middle: Tensor  # (N, r, k_mid)
    coupling: Tensor | None = None  # (N, r, C)
    hidden: Tensor | None = None  # (N, d)
    head_index: Tensor | None = None  # (k_head,)

    def __post_init__(self) -> None:
        if (self.coupling is None) != (self.hidden is None):
            raise ValueError("coupling and hidden belong together: give both or neither")
        for name in ("middle", "coupling", "hidden"):
            part = getattr(self, name)
            if part is None:
                continue
            _check_part(name, part, 2 if name == "hidden" else 3)
            if part.dtype != self.middle.dtype:
                raise TypeError(f"{name} is {part.dtype}; expected middle's {self.middle.dtype}")
            if part.device != self.middle.device:
                raise ValueError(
                    f"{name} is on {part.device}; expected middle's {self.middle.device}"
                )
            if part.shape[0] != len(self):
                raise ValueError(
                    f"{name} holds {part.shape[0]} samples; expected middle's {len(self)}"
                )
        if self.coupling is None:
            if self.head_index is not None:
                raise ValueError("head_index needs coupling and hidden")
            return
        if self.coupling.shape[1] != self.n_rows:
            raise ValueError(
                f"coupling has {self.coupling.shape[1]} rows a sample; expected {self.n_rows}"
            )
        if self.head_index is not None:
            _check_head_index(self.head_index, self._head_size, self.middle.device)

    def __len__(self) -> int:
        return self.middle.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's factor."""
        return self.middle.shape[1]

    @property
    def n_columns(self) -> int:
        """Masked parameters k."""
        return self.middle.shape[2] + self._head_columns

    @property
    def dtype(self) -> torch.dtype:
        """Storage dtype of every part."""
        return self.middle.dtype

    @property
    def device(self) -> torch.device:
        """Device of every part."""
        return self.middle.device

    @property
    def _head_size(self) -> int:
        if self.coupling is None or self.hidden is None:
            return 0
        return self.coupling.shape[2] * self.hidden.shape[1]

    @property
    def _head_columns(self) -> int:
        return self._head_size if self.head_index is None else self.head_index.numel()

    def __getitem__(self, index: int | slice | Tensor) -> GradientFactors:
        """The factors of some samples, in the order of `index`; an int keeps the leading axis."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            index %= len(self)
            index = slice(index, index + 1)
        return GradientFactors(
            self.middle[index],
            None if self.coupling is None else self.coupling[index],
            None if self.hidden is None else self.hidden[index],
            self.head_index,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> GradientFactors:
        """The same factors on another device or in another floating dtype."""

        def move(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device=device, dtype=dtype)

        middle = self.middle.to(device=device, dtype=dtype)
        index = None if self.head_index is None else self.head_index.to(device=device)
        return GradientFactors(middle, move(self.coupling), move(self.hidden), index)

    @staticmethod
    def cat(parts: Sequence[GradientFactors]) -> GradientFactors:
        """Concatenate over samples; every part must have the same columns.

        Raises:
            ValueError: nothing to concatenate, or parts whose columns differ.
        """
        if not parts:
            raise ValueError("cat needs at least one GradientFactors; got none")
        first = parts[0]
        for part in parts[1:]:
            same_index = (part.head_index is None) == (first.head_index is None) and (
                first.head_index is None
                or part.head_index is None
                or torch.equal(part.head_index, first.head_index)
            )
            if part.n_columns != first.n_columns or not same_index:
                raise ValueError("cat needs parts with the same columns")

        def join(tensors: list[Tensor | None]) -> Tensor | None:
            kept = [t for t in tensors if t is not None]
            return torch.cat(kept) if kept else None

        return GradientFactors(
            torch.cat([part.middle for part in parts]),
            join([part.coupling for part in parts]),
            join([part.hidden for part in parts]),
            first.head_index,
        )

    def dense(self) -> Tensor:
        """V as one (N, r, k) tensor: middle columns first, then the head's in order (c, j)."""
        if self.coupling is None or self.hidden is None:
            return self.middle
        return torch.cat([self.middle, self._expand_head()], dim=2)

    def _expand_head(self) -> Tensor:
        """The head's columns, (N, r, k_head)."""
        assert self.coupling is not None and self.hidden is not None
        if self.head_index is None:
            return (self.coupling[..., None] * self.hidden[:, None, None, :]).flatten(2)
        d = self.hidden.shape[1]
        rows = self.head_index // d
        return self.coupling[:, :, rows] * self.hidden[:, None, self.head_index % d]

    def _compact(self) -> GradientFactors:
        """Itself where the Kronecker form is the cheaper one to multiply with, else dense.

        A head of which only a few entries are masked costs C^2 d^2 in Kronecker form and
        r k_head^2 as plain columns.
        """
        if self.head_index is None or self.coupling is None or self.hidden is None:
            return self
        kronecker = self._head_size**2 / 2
        if kronecker <= 2 * self.n_rows * self.head_index.numel() ** 2:
            return self
        return GradientFactors(self.dense())

    def chunks(self, chunk_size: int) -> Iterator[GradientFactors]:
        """Consecutive chunks of at most `chunk_size` samples."""
        for start in range(0, len(self), chunk_size):
            yield self[start : start + chunk_size]

    def fisher(self, chunk_size: int | None = None) -> Tensor:
        """F = (1/N) sum_x V_x^T V_x as a (k, k) float64 matrix (method: Fisher matrices).

        Raises:
            ValueError: there are no samples.
        """
        if len(self) == 0:
            raise ValueError("a Fisher matrix needs at least one sample; got an empty pool")
        k = self.n_columns
        total = torch.zeros(k, k, dtype=torch.float64, device=self.device)
        for chunk in self.chunks(chunk_size or self._chunk_size()):
            _add_gram(total, chunk._compact().to(dtype=torch.float64))
        lower = total.tril_()
        return (lower + lower.tril(-1).T).div_(len(self))

    def quadratic_forms(self, *matrices: Tensor, chunk_size: int | None = None) -> list[Tensor]:
        """V_x Q V_x^T for every sample and each symmetric Q, in float64.

        Args:
            *matrices: symmetric (k, k) float64 matrices.
            chunk_size: samples at a time; by default what keeps the working memory near 128 MiB.

        Returns:
            One (N, r, r) float64 tensor for each matrix.
        """
        n, r = len(self), self.n_rows
        out = [torch.empty(n, r, r, dtype=torch.float64, device=self.device) for _ in matrices]
        size = chunk_size or self._chunk_size()
        prepared: list[_QuadraticForm] | None = None
        for start in range(0, n, size):
            chunk = self[start : start + size]._compact().to(dtype=torch.float64)
            if prepared is None:
                prepared = [_QuadraticForm(q, chunk, self) for q in matrices]
            square = _packed_square(chunk.hidden) if chunk.hidden is not None else None
            for form, result in zip(prepared, out, strict=True):
                result[start : start + size] = form(chunk, square)
        return out

    def times_transpose(self, matrix: Tensor) -> Tensor:
        """S V_x^T for every sample, S a symmetric (k, k) float64 matrix, as (N, k, r) float64."""
        chunk = self._compact().to(dtype=torch.float64)
        n, r, k = len(self), self.n_rows, self.n_columns
        m = chunk.middle.shape[2]
        out = (chunk.middle.reshape(n * r, m) @ matrix[:m]).view(n, r, k)
        if chunk.coupling is not None and chunk.hidden is not None:
            head = self._scatter_rows(matrix[m:])  # (C, d, k)
            inner = torch.matmul(chunk.hidden, head)  # (C, n, k)
            out += torch.matmul(chunk.coupling, inner.transpose(0, 1))
        return out.transpose(1, 2)

    def _scatter_rows(self, rows: Tensor) -> Tensor:
        """(k_head, q) rows of the masked head entries as a full (C, d, q) block."""
        assert self.coupling is not None and self.hidden is not None
        c, d = self.coupling.shape[2], self.hidden.shape[1]
        if self.head_index is not None:
            full = rows.new_zeros(c * d, rows.shape[1])
            full[self.head_index] = rows
            rows = full
        return rows.reshape(c, d, -1)

    def _chunk_size(self) -> int:
        """Samples whose working memory in set-up stays near 128 MiB."""
        r, m = self.n_rows, self.middle.shape[2]
        numbers = 3 * r * m
        if self.coupling is not None and self.hidden is not None:
            c, d = self.coupling.shape[2], self.hidden.shape[1]
            numbers += 2 * c * m + c * c + _packed_width(d)
            if self.head_index is not None:
                numbers += 3 * r * self.head_index.numel()
        return max(1, min(4096, _CHUNK_BYTES // (8 * max(numbers, 1))))


def as_factors(gradients: Tensor | GradientFactors) -> GradientFactors:
    """Gradients as factors: a dense (N, r, k) tensor is all `middle`.

    Raises:
        TypeError: not a floating-point tensor or GradientFactors.
        ValueError: not of shape (N, r, k).
    """
    if isinstance(gradients, GradientFactors):
        return gradients
    _check_part("gradients", gradients, 3)
    return GradientFactors(gradients.detach())


def _check_part(name: str, part: object, ndim: int) -> None:
    shape = "(N, d)" if ndim == 2 else "(N, r, k)"
    if not isinstance(part, Tensor):
        raise TypeError(f"{name} must be a Tensor of shape {shape}; got {type(part).__name__}")
    if part.dtype not in _FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64; got {part.dtype}")
    if part.ndim != ndim:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(part.shape)}")


def _check_head_index(index: Tensor, size: int, device: torch.device) -> None:
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(
            f"head_index must be a 1-d int64 tensor; got {index.dtype} {tuple(index.shape)}"
        )
    if index.device != device:
        raise ValueError(f"head_index is on {index.device}; expected {device}")
    if index.numel() and (index[0] < 0 or index[-1] >= size or (index.diff() <= 0).any()):
        raise ValueError(f"head_index must be strictly increasing within 0..{size - 1}")


class _QuadraticForm:
    """x -> V_x Q V_x^T for one symmetric Q, with Q's blocks laid out once for all chunks."""

    def __init__(self, matrix: Tensor, chunk: GradientFactors, source: GradientFactors) -> None:
        m = chunk.middle.shape[2]
        # Q = T + T^T with T lower triangular: half the product, symmetrised at the end.
        self.half = matrix[:m, :m].tril()
        self.half.diagonal().mul_(0.5)
        self.cross: Tensor | None = None
        self.pairs: Tensor | None = None
        if chunk.coupling is None or chunk.hidden is None:
            return
        c, d = chunk.coupling.shape[2], chunk.hidden.shape[1]
        rows = source._scatter_rows(matrix[m:])  # (C, d, k)
        self.cross = rows[:, :, :m].transpose(0, 1).reshape(d, c * m)
        head = (
            source._scatter_rows(rows.reshape(c * d, -1)[:, m:].T)
            if source.head_index is not None
            else (rows[:, :, m:].permute(2, 0, 1).reshape(c, d, c * d))
        )
        blocks = head.reshape(c, d, c, d).transpose(1, 2)  # (C, C, d, d)
        lower = torch.tril_indices(c, c, device=matrix.device)
        self.pairs = _pack_symmetric(blocks[lower[0], lower[1]])  # (pairs, packed)
        self.lower = lower

    def __call__(self, chunk: GradientFactors, square: Tensor | None) -> Tensor:
        n, r, m = chunk.middle.shape
        left = _times_lower(chunk.middle.reshape(n * r, m), self.half).view(n, r, m)
        if self.cross is None or self.pairs is None or square is None:
            half = torch.bmm(left, chunk.middle.transpose(1, 2))
            return half + half.transpose(1, 2)
        assert chunk.coupling is not None and chunk.hidden is not None
        c = chunk.coupling.shape[2]
        crossed = (chunk.hidden @ self.cross).view(n, c, m)
        left += torch.bmm(chunk.coupling, crossed)
        half = torch.bmm(left, chunk.middle.transpose(1, 2))
        inner = chunk.coupling.new_empty(n, c, c)
        values = square @ self.pairs.T  # (n, pairs)
        inner[:, self.lower[0], self.lower[1]] = values
        inner[:, self.lower[1], self.lower[0]] = values
        head = chunk.coupling @ inner @ chunk.coupling.transpose(1, 2)
        return half + half.transpose(1, 2) + head


def _times_lower(left: Tensor, lower: Tensor) -> Tensor:
    """left @ lower for a lower triangular matrix, leaving out the blocks that are zero."""
    k = lower.shape[0]
    out = left.new_empty(left.shape[0], k)
    for start in range(0, k, _BLOCK):
        stop = min(start + _BLOCK, k)
        torch.mm(left[:, start:], lower[start:, start:stop], out=out[:, start:stop])
    return out


def _block_starts(d: int) -> range:
    return range(0, d, 16)


def _packed_width(d: int) -> int:
    return sum((min(s + 16, d) - s) * min(s + 16, d) for s in _block_starts(d))


def _packed_square(hidden: Tensor) -> Tensor:
    """h h^T by block rows of its lower triangle, (n, packed): each needed product h_i h_j once."""
    n, d = hidden.shape
    out = hidden.new_empty(n, _packed_width(d))
    at = 0
    for start in _block_starts(d):
        stop = min(start + 16, d)
        width = (stop - start) * stop
        block = out[:, at : at + width].view(n, stop - start, stop)
        torch.mul(hidden[:, start:stop, None], hidden[:, None, :stop], out=block)
        at += width
    return out


def _pack_symmetric(blocks: Tensor) -> Tensor:
    """Matrices (q, d, d) laid out so that <packed, _packed_square(h)> = h^T Q h, (q, packed)."""
    q, d, _ = blocks.shape
    parts = []
    for start in _block_starts(d):
        stop = min(start + 16, d)
        rows = blocks[:, start:stop, :stop].clone()
        rows[:, :, :start] += blocks[:, :start, start:stop].transpose(1, 2)
        parts.append(rows.reshape(q, -1))
    return torch.cat(parts, dim=1)


def _unpack_symmetric(packed: Tensor, d: int) -> Tensor:
    """The inverse layout for sums of _packed_square: (q, packed) to full (q, d, d)."""
    q = packed.shape[0]
    out = packed.new_empty(q, d, d)
    at = 0
    for start in _block_starts(d):
        stop = min(start + 16, d)
        width = (stop - start) * stop
        rows = packed[:, at : at + width].view(q, stop - start, stop)
        out[:, start:stop, :stop] = rows
        out[:, :start, start:stop] = rows[:, :, :start].transpose(1, 2)
        at += width
    return out


def _add_gram(total: Tensor, chunk: GradientFactors) -> None:
    """Add sum_x V_x^T V_x to the lower triangle of `total` (k, k)."""
    n, r, m = chunk.middle.shape
    rows = chunk.middle.reshape(n * r, m)
    for start in range(0, m, _BLOCK):
        stop = min(start + _BLOCK, m)
        total[start:stop, :stop].addmm_(rows[:, start:stop].T, rows[:, :stop])
    if chunk.coupling is None or chunk.hidden is None:
        return
    c, d = chunk.coupling.shape[2], chunk.hidden.shape[1]
    crossed = torch.bmm(chunk.coupling.transpose(1, 2), chunk.middle)  # (n, C, m)
    cross = chunk.hidden.T @ crossed.view(n, c * m)  # (d, C m)
    cross = cross.view(d, c, m).transpose(0, 1).reshape(c * d, m)
    inner = torch.bmm(chunk.coupling.transpose(1, 2), chunk.coupling)  # (n, C, C)
    lower = torch.tril_indices(c, c, device=total.device)
    sums = inner[:, lower[0], lower[1]].T @ _packed_square(chunk.hidden)  # (pairs, packed)
    head = total.new_zeros(c, c, d, d)
    head[lower[0], lower[1]] = _unpack_symmetric(sums, d)
    head = head.transpose(1, 2).reshape(c * d, c * d)
    if chunk.head_index is not None:
        cross = cross[chunk.head_index]
        head = head[chunk.head_index][:, chunk.head_index]
    total[m:, :m] += cross
    total[m:, m:] += head
