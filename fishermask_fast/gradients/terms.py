"""Per-sample gradients of one parameter for one row of cotangents, before anything is multiplied.

One use of a parameter gives one term. For sample n, with the output gradient delta and the saved
input a of the operation that consumes it,

    Product      dW[n]    = sum_t left[n,t] right[n,t]^T          linear layers
    Correlation  dW[n]    = sum_y delta[n,o,y] a[n,i, y*stride + u*dilation]
    Lookup       dW[n,v]  = sum of values over the entries of sample n that looked v up
    Whole        dW[n]    as it stands: biases, norms, scales, positions

and several uses add up. Each offers its gradients whole, at some flat positions, and squared and
summed over n; what lies between parameter and operation is undone by Moved (views) and Chained
(arithmetic, by the chain rule).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fishermask_fast.gradients.weight_products import (
    Convolution,
    chunks,
    conv_dense,
    conv_masked,
    conv_squared,
    linear_dense,
    linear_masked,
    linear_squared,
)


class Term(Protocol):
    """Gradients of n samples with respect to something of one shape."""

    @property
    def n(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def dense(self, part: slice) -> Tensor:
        """Whole gradients of some samples, (m, *shape)."""
        ...

    def masked(self, index: Tensor) -> Tensor:
        """Gradients at flat positions (m,), as (n, m)."""
        ...

    def squared(self) -> Tensor:
        """Squared gradients, summed over the samples, of the shape."""
        ...


def _masked_of_dense(term: Term, index: Tensor) -> Tensor:
    parts = [
        term.dense(part).flatten(1)[:, index] for part in chunks(term.n, math.prod(term.shape))
    ]
    return torch.cat(parts)


def _squared_of_dense(term: Term) -> Tensor:
    parts = (term.dense(part).square().sum(0) for part in chunks(term.n, math.prod(term.shape)))
    total = next(parts)
    for part in parts:
        total += part
    return total


@dataclass(frozen=True)
class Whole:
    """Gradients so small that they are at hand."""

    values: Tensor  # (n, *shape)

    @property
    def n(self) -> int:
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    def dense(self, part: slice) -> Tensor:
        return self.values[part]

    def masked(self, index: Tensor) -> Tensor:
        # Not flatten: a parameter may have no dimensions.
        return self.values.reshape(self.n, -1)[:, index]

    def squared(self) -> Tensor:
        return self.values.square().sum(0)


@dataclass(frozen=True)
class Product:
    """Sums of outer products over t."""

    left: Tensor  # (n, T, L)
    right: Tensor  # (n, T, R)

    @property
    def n(self) -> int:
        return self.left.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.left.shape[2], self.right.shape[2]

    @property
    def single(self) -> bool:
        """Whether there is nothing to sum."""
        return self.left.shape[1] == 1

    def turned(self) -> Product:
        return Product(self.right, self.left)

    def dense(self, part: slice) -> Tensor:
        return linear_dense(self.right[part], self.left[part])

    def masked(self, index: Tensor) -> Tensor:
        return linear_masked(self.right, self.left, index)

    def squared(self) -> Tensor:
        return linear_squared(self.right, self.left)


@dataclass(frozen=True)
class Batched:
    """Sums of outer products over t, for each of E matrices that a batched product takes."""

    left: Tensor  # (n, T, E, L)
    right: Tensor  # (n, T, E, R)

    @property
    def n(self) -> int:
        return self.left.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.left.shape[2], self.left.shape[3], self.right.shape[3]

    def dense(self, part: slice) -> Tensor:
        found: Tensor = torch.einsum("ntel,nter->nelr", self.left[part], self.right[part])
        return found

    def masked(self, index: Tensor) -> Tensor:
        return _masked_of_dense(self, index)

    def squared(self) -> Tensor:
        return _squared_of_dense(self)


@dataclass(frozen=True)
class Correlation:
    """A convolution's weight; T images a sample, which add up."""

    convolution: Convolution
    a: Tensor  # (n, T, C_in, *positions), padded
    delta: Tensor  # (n, T, C_out, *positions)

    @property
    def n(self) -> int:
        return self.delta.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.convolution.shape

    def _images(self, part: slice) -> tuple[Tensor, Tensor]:
        return self.a[part].flatten(0, 1), self.delta[part].flatten(0, 1)

    def dense(self, part: slice) -> Tensor:
        found = conv_dense(self.convolution, *self._images(part))
        images = self.delta.shape[1]
        return found.view(-1, images, *self.shape).sum(1) if images > 1 else found

    def masked(self, index: Tensor) -> Tensor:
        found = conv_masked(self.convolution, *self._images(slice(None)), index)
        images = self.delta.shape[1]
        return found.view(self.n, images, index.numel()).sum(1) if images > 1 else found

    def squared(self) -> Tensor:
        if self.delta.shape[1] > 1:
            return _squared_of_dense(self)
        return conv_squared(self.convolution, *self._images(slice(None)))


@dataclass(frozen=True)
class Lookup:
    """Rows of a table, looked up by entries that belong to samples."""

    samples: Tensor  # (L,) int64, which sample an entry belongs to
    rows: Tensor  # (L,) int64, which row it looked up; below 0 for one without gradient
    values: Tensor  # (L, width)
    n: int
    shape: tuple[int, ...]  # of the table: (height, ...)

    def dense(self, part: slice) -> Tensor:
        first, last, _ = part.indices(self.n)
        height, width = self.shape[0], self.values.shape[1]
        kept = (self.rows >= 0) & (self.samples >= first) & (self.samples < last)
        key = (self.samples[kept] - first) * height + self.rows[kept]
        sums = self.values.new_zeros((last - first) * height, width)
        return sums.index_add_(0, key, self.values[kept]).view(last - first, *self.shape)

    def masked(self, index: Tensor) -> Tensor:
        width = self.values.shape[1]
        if index.numel() == 0:
            return self.values.new_empty(self.n, 0)
        wanted, place = torch.unique(index // width, return_inverse=True)
        found = torch.searchsorted(wanted, self.rows.contiguous()).clamp(max=len(wanted) - 1)
        kept = wanted[found] == self.rows
        row, values, samples = found[kept], self.values[kept], self.samples[kept]
        result = values.new_empty(self.n, index.numel())
        for part in chunks(self.n, len(wanted) * width):
            first, last, _ = part.indices(self.n)
            here = (samples >= first) & (samples < last)
            sums = values.new_zeros((last - first) * len(wanted), width)
            sums.index_add_(0, (samples[here] - first) * len(wanted) + row[here], values[here])
            result[part] = sums.view(last - first, len(wanted), width)[:, place, index % width]
        return result

    def squared(self) -> Tensor:
        kept = self.rows >= 0
        keys = self.samples[kept] * self.shape[0] + self.rows[kept]
        pairs, place = torch.unique(keys, return_inverse=True)
        sums = self.values.new_zeros(len(pairs), self.values.shape[1])
        sums.index_add_(0, place, self.values[kept])
        total = self.values.new_zeros(self.shape[0], self.values.shape[1])
        return total.index_add_(0, pairs % self.shape[0], sums.square_()).view(self.shape)


@dataclass(frozen=True)
class Moved:
    """Numbers of the parameter in another order or number: each stands in one place at most."""

    term: Term
    places: Tensor  # of the parameter's shape, int64: flat position in the term, or -1

    @property
    def n(self) -> int:
        return self.term.n

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.places.shape)

    def dense(self, part: slice) -> Tensor:
        found = self.term.dense(part)
        return self._taken(found.reshape(len(found), -1), self.places)

    def masked(self, index: Tensor) -> Tensor:
        places = self.places.flatten()[index]
        found = self.term.masked(places.clamp(min=0))
        return torch.where(places < 0, 0.0, found)

    def squared(self) -> Tensor:
        return self._taken(self.term.squared().reshape(1, -1), self.places)[0]

    @staticmethod
    def _taken(found: Tensor, places: Tensor) -> Tensor:
        return torch.where(places < 0, 0.0, found[:, places.clamp(min=0)])


@dataclass(frozen=True)
class Chained:
    """A parameter behind arithmetic: d theta = (d w / d theta)^T d w, sample by sample."""

    term: Term
    edge: GradientEdge  # of w, in the graph from theta to it
    parameter: Tensor

    @property
    def n(self) -> int:
        return self.term.n

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    def dense(self, part: slice) -> Tensor:
        outer = self.term.dense(part)
        dtype = self.edge.node._input_metadata[self.edge.output_nr].dtype
        with warnings.catch_warnings():
            # Slow paths inside vmap are no news: what lies between is small.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            (found,) = torch.autograd.grad(
                [self.edge],
                [self.parameter],
                [outer.to(dtype)],
                retain_graph=True,
                is_grads_batched=True,
            )
        return found.to(outer.dtype)

    def _parts(self) -> Sequence[slice]:
        numbers = math.prod(self.shape) + math.prod(self.term.shape)
        return list(chunks(self.n, numbers))

    def masked(self, index: Tensor) -> Tensor:
        found = [self.dense(part) for part in self._parts()]
        return torch.cat([some.reshape(len(some), -1)[:, index] for some in found])

    def squared(self) -> Tensor:
        parts = [self.dense(part).square_().sum(0) for part in self._parts()]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class Total:
    """The sum of several uses of one parameter."""

    terms: tuple[Term, ...]

    @property
    def n(self) -> int:
        return self.terms[0].n

    @property
    def shape(self) -> tuple[int, ...]:
        return self.terms[0].shape

    def dense(self, part: slice) -> Tensor:
        total = self.terms[0].dense(part)
        for term in self.terms[1:]:
            total = total + term.dense(part).view(total.shape)
        return total

    def masked(self, index: Tensor) -> Tensor:
        total = self.terms[0].masked(index)
        for term in self.terms[1:]:
            total = total + term.masked(index)
        return total

    def squared(self) -> Tensor:
        return _squared_of_dense(self)


def add_squares(total: Tensor, rows: Sequence[Term]) -> None:
    """Adds the squares of all rows' gradients, summed over the samples.

    Args:
        total: of as many numbers as the terms' shape.
        rows: one term for each row of cotangents; none or more.
    """
    together = [row for row in rows if isinstance(row, Product) and row.single]
    if together:
        # (l r)^2 = l^2 r^2: one product over the samples of all rows, with no array beside total.
        left, right = (
            torch.cat([getattr(row, side)[:, 0] for row in together]).square_()
            for side in ("left", "right")
        )
        total.view(together[0].shape).addmm_(left.T, right)
    for row in rows:
        if not (isinstance(row, Product) and row.single):
            total += row.squared().view(total.shape)


def add_up(terms: Sequence[Term]) -> Term:
    """The term of all uses of a parameter: products side by side, everything else summed."""
    if len(terms) == 1:
        return terms[0]
    products = [term for term in terms if isinstance(term, Product)]
    if len(products) == len(terms):
        left, right = ([getattr(term, side) for term in products] for side in ("left", "right"))
        return Product(torch.cat(left, 1), torch.cat(right, 1))
    return Total(tuple(terms))
