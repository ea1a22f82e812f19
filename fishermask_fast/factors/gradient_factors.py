"""Per-sample gradient factors in memory.

A sample's factor is V_x = [ middle_x | (coupling_x kron hidden_x)[head_index] ], an r x k matrix
with V_x^T V_x = E_{y~p}[g g^T], the sample's Fisher information on the masked parameters.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fishermask_fast.arrays import Array
from fishermask_fast.checks import (
    FLOATING,
    as_device,
    check_device,
    check_flag,
    check_integer,
    shown,
)
from fishermask_fast.factors import grams, products
from fishermask_fast.factors.checks import (
    check_beside,
    check_changed,
    check_form,
    check_head_index,
    check_part,
    check_parts,
    check_same_index,
)


@dataclass(frozen=True, repr=False)
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

    Example:
        >>> import torch
        >>> from fishermask_fast import GradientFactors
        >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
        >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
        >>> len(factors), factors.n_rows, factors.n_columns  # 5 and the head's 3 x 4
        (20, 2, 17)
        >>> torch.equal(factors[3:].middle, factors.middle[3:])
        True
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
            check_part(name, part, 2 if name == "hidden" else 3)
            check_beside(name, part, self.middle)
        if self.coupling is None:
            if self.head_index is not None:
                raise ValueError("head_index needs coupling and hidden")
            return
        if self.coupling.shape[1] != self.n_rows:
            raise ValueError(
                f"coupling has {self.coupling.shape[1]} rows a sample; expected {self.n_rows}"
            )
        if self.head_index is not None:
            check_head_index(self.head_index, self.head_size, self.middle.device)

    def __len__(self) -> int:
        return self.middle.shape[0]

    def __repr__(self) -> str:
        shape = (len(self), self.n_rows, self.n_columns)
        parts = [f"(N, r, k) = {shape}"]
        for name in ("middle", "coupling", "hidden"):
            part = getattr(self, name)
            if part is not None:
                span = ""
                if part.numel():
                    least, most = map(float, part.aminmax())
                    span = f" in [{least:.3g}, {most:.3g}]"
                parts.append(f"{name} {tuple(part.shape)}{span}")
        if self.head_index is not None:
            parts.append(f"{self.head_index.numel():,} of the head's {self.head_size:,} masked")
        return f"GradientFactors({', '.join(parts)}, {self.dtype}, {self.device})"

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
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        numbers = self.n_rows * self.middle.shape[2]
        if self.coupling is not None and self.hidden is not None:
            numbers += self.n_rows * self.coupling.shape[2] + self.hidden.shape[1]
        return self.dtype.itemsize * numbers

    @property
    def head_size(self) -> int:
        """Numbers C d of the whole head, 0 without one."""
        if self.coupling is None or self.hidden is None:
            return 0
        return self.coupling.shape[2] * self.hidden.shape[1]

    @property
    def _head_columns(self) -> int:
        return self.head_size if self.head_index is None else self.head_index.numel()

    def _layout(self) -> tuple[int, ...]:
        head = (
            ()
            if self.coupling is None or self.hidden is None
            else (self.coupling.shape[2], self.hidden.shape[1])
        )
        return (self.n_rows, self.middle.shape[2], *head)

    def __getitem__(self, index: int | slice | Tensor) -> GradientFactors:
        """The factors of some samples, in the order of `index`; an int keeps the leading axis."""
        if not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and not index.ndim):
            index = operator.index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            index %= len(self)
            index = slice(index, index + 1)
        return self._with(
            self.middle[index],
            None if self.coupling is None else self.coupling[index],
            None if self.hidden is None else self.hidden[index],
            self.head_index,
        )

    @staticmethod
    def _with(*parts: Tensor | None) -> GradientFactors:
        """From parts that are known to fit: a look at head_index would wait for a GPU."""
        factors = object.__new__(GradientFactors)
        for field, part in zip(fields(GradientFactors), parts, strict=True):
            object.__setattr__(factors, field.name, part)
        return factors

    def map(
        self, change: Callable[[Tensor], Tensor], head_index: Tensor | None = None
    ) -> GradientFactors:
        """The same with every part but head_index changed, which keeps its shape.

        Args:
            change: from a part to what replaces it.
            head_index: an equal one that lies elsewhere; None for this one.

        Raises:
            TypeError: `change` is no function, or what it gives or head_index no such tensor.
            ValueError: it changes a shape, or head_index is another.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors
            >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
            >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
            >>> factors.map(torch.Tensor.double).dtype
            torch.float64
        """
        if not callable(change):
            raise TypeError(f"change must be a function of a tensor; got {shown(change)}")
        parts = (self.middle, self.coupling, self.hidden)
        changed = [None if part is None else change(part) for part in parts]
        for part, found in zip(parts, changed, strict=True):
            check_changed(part, found)
        index = self.head_index
        if head_index is not None:
            check_same_index(head_index, index)
            index = head_index
        return self._with(*changed, index)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> GradientFactors:
        """The same factors on another device or in another floating dtype.

        Raises:
            TypeError: no device, no flag, or a dtype that is not floating-point.
            ValueError: a device that is not there.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors
            >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
            >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
            >>> factors.to("cpu", torch.float16).dtype
            torch.float16
        """
        if device is not None and as_device(device).type != "meta":
            check_device(device)
        if dtype is not None and dtype not in FLOATING:
            raise TypeError(f"dtype must be a floating torch.dtype; got {shown(dtype)}")
        check_flag("non_blocking", non_blocking)
        moved = self.map(lambda part: part.to(device, dtype, non_blocking))
        index = self.head_index
        if index is None or device is None:
            return moved
        index = index.to(device, non_blocking=non_blocking)
        return self._with(moved.middle, moved.coupling, moved.hidden, index)

    @staticmethod
    def cat(parts: Sequence[GradientFactors]) -> GradientFactors:
        """Concatenate over samples; every part must have the same columns.

        Raises:
            TypeError: `parts` is no list or tuple of GradientFactors.
            ValueError: nothing to concatenate, or parts whose columns differ.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors
            >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
            >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
            >>> len(GradientFactors.cat([factors, factors]))
            40
        """
        check_parts(parts, GradientFactors)
        first = parts[0]
        for part in parts[1:]:
            if not same_columns(part, first):
                raise ValueError(
                    "parts must have the same columns; got (r, k_mid, C, d) = "
                    f"{first._layout()} and {part._layout()}"
                )

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
        """V as one (N, r, k) tensor: middle columns first, then the head's in order (c, j).

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors
            >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
            >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
            >>> factors.dense().shape
            torch.Size([20, 2, 17])
        """
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

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, GradientFactors]]:
        """Consecutive chunks of at most `chunk_size` samples, and where each begins.

        None takes all in one.

        Raises:
            TypeError, ValueError: a `chunk_size` that is no positive integer.
        """
        size = max(len(self), 1)
        if chunk_size is not None:
            size = check_integer("chunk_size", chunk_size, 1)
        if size >= len(self):
            return iter([(0, self)] if len(self) else [])
        return ((start, self[start : start + size]) for start in range(0, len(self), size))

    def fisher(
        self, chunk_size: int | None = None, weights: Tensor | Array | None = None
    ) -> Tensor:
        """F = sum_x w_x V_x^T V_x / sum_x w_x, (k, k) float64 (method: Fisher matrices).

        Args:
            chunk_size: samples at a time.
            weights: (N,) numbers of 0 or more, whose uncertainty counts how much; None for the mean
                over the samples.

        Raises:
            TypeError: weights that are no numbers.
            ValueError: there are no samples, or weights of another shape, negative, not finite, or
                all zero.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors
            >>> coupling, hidden = torch.randn(20, 2, 3), torch.randn(20, 4)
            >>> factors = GradientFactors(torch.randn(20, 2, 5), coupling, hidden)
            >>> v = factors.dense().double()
            >>> torch.allclose(factors.fisher(), torch.einsum("nrk,nrl->kl", v, v) / 20)
            True
        """
        return grams.mean_gram(self, chunk_size, weights)

    @torch.no_grad()
    def add_gram(self, total: Tensor) -> None:
        """Adds sum_x V_x^T V_x to the lower triangle of `total` (k, k) float64."""
        products.add_gram(self, total)

    @torch.no_grad()
    def add_weighted_gram(self, total: Tensor, weights: Tensor) -> None:
        """Adds sum_x w_x V_x^T V_x likewise, for weights (N,) float64."""
        for start, chunk in self.chunks(self.default_chunk_size()):
            # In float64, as the roots of the weights would be rounded to the factors' dtype.
            wide = chunk.to(dtype=torch.float64)
            roots = weights[start : start + len(chunk)].sqrt()[:, None, None]
            coupling = None if wide.coupling is None else wide.coupling * roots
            part = self._with(wide.middle * roots, coupling, wide.hidden, wide.head_index)
            products.add_gram(part, total)

    @torch.no_grad()
    def grams(self) -> Tensor:
        """V_x V_x^T for every sample, (N, r, r) float64."""
        return products.row_grams(self)

    @torch.no_grad()
    def quadratic_forms(self, *matrices: Tensor, chunk_size: int | None = None) -> list[Tensor]:
        """V_x Q V_x^T for every sample and each symmetric Q, in float64.

        Args:
            *matrices: symmetric (k, k) float64 matrices.
            chunk_size: samples at a time where they need working memory; by default what keeps it
                near 32 MiB, on a GPU 512 MiB. On the CPU only a few masked entries of a large head
                do.

        Returns:
            One (N, r, r) float64 tensor for each matrix.

        Raises:
            TypeError: a matrix is not float64.
            ValueError: a matrix is not (k, k), or on another device than the factors.
        """
        for matrix in matrices:
            check_form(matrix, self.n_columns, self.device)
        return products.quadratic_forms(self, matrices, chunk_size)

    @torch.no_grad()
    def times(self, matrix: Tensor) -> Tensor:
        """V_x S for every sample and a (k, q) float64 matrix S, as (N, r, q) float64."""
        return products.times(self, matrix)

    def default_chunk_size(self) -> int:
        """Samples whose working memory in set-up stays near 32 MiB, on a GPU 512 MiB."""
        return products.chunk_size(self)


def same_columns(one: GradientFactors, other: GradientFactors) -> bool:
    """Whether both have the same rows a sample, and columns that mean the same."""
    if one._layout() != other._layout():
        return False
    if one.head_index is None or other.head_index is None:
        return one.head_index is other.head_index
    return torch.equal(one.head_index, other.head_index)
