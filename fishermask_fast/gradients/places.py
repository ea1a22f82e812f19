"""Where the samples lie in an operation's result.

Along one dimension of it, each sample having `inner` entries in a row, `outer` times over:

    entry (o * N + n) * inner + i    belongs to sample n

outer = inner = 1 almost always; inner = T where the T tokens of a sample were put in a row for a
matrix product, outer = T where tokens come before samples; windows of an image are entries as well.
A view that follows the operation often tells, since in it the samples have a dimension of their
own; where none does, the gradients of single samples show which entries are whose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from fishermask_fast.network import Graph, result_shapes

_SPLITS = ("View", "UnsafeView", "ReshapeAlias", "AsStrided")


@dataclass(frozen=True)
class Layout:
    """The samples' place in one batch."""

    n: int
    axis: int
    outer: int
    inner: int

    @property
    def entries(self) -> int:
        """How many entries along the axis each sample has."""
        return self.outer * self.inner

    def arrange(self, tensor: Tensor) -> Tensor:
        """The same values as (n, entries, *other dimensions)."""
        moved = tensor.movedim(self.axis, 0)
        moved = moved.reshape(self.outer, self.n, self.inner, *moved.shape[1:])
        if self.outer == 1:
            return moved[0]
        return moved.transpose(0, 1).flatten(1, 2)

    def own(self, tensor: Tensor) -> Tensor:
        """The same values as (n, *dimensions), where the axis holds one sample's entries."""
        return self.arrange(tensor).movedim(1, self.axis + 1)


@dataclass(frozen=True)
class Place:
    """The samples' place in every batch.

    Attributes:
        axis: the dimension of the result along which samples lie.
        view: the samples' dimension in the view that follows, which gives outer and inner in each
            batch anew; None where they are the same in every batch.
        outer: see above.
        inner: see above.
    """

    axis: int
    view: int | None = None
    outer: int = 1
    inner: int = 1

    def resolve(self, graph: Graph, node: Node, n: int) -> Layout | None:
        """The layout in a batch of n samples; None where the result does not fit."""
        (shape, *_) = result_shapes(node)
        outer, inner = self.outer, self.inner
        if self.view is not None:
            split = _split_shape(graph, node)
            if split is None or self.view >= len(split) - 1 or split[self.view] != n:
                return None
            outer, inner = math.prod(split[: self.view]), math.prod(split[self.view + 1 : -1])
        if self.axis >= len(shape) or shape[self.axis] != outer * n * inner:
            return None
        return Layout(n, self.axis, outer, inner)


def _split_shape(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """The shape of a view that splits the rows of a matrix, where one follows."""
    (shape, *_) = result_shapes(node)
    if len(shape) != 2:
        return None
    ring = [node]
    for _ in range(3):
        ring = [user for below in ring for user, _ in graph.users.get(below, ())]
        for user in ring:
            split = result_shapes(user)[0]
            fits = math.prod(split[:-1]) == shape[0] and split[-1:] == shape[1:]
            if len(split) > 2 and fits and user.name().startswith(_SPLITS):
                return split
        ring = [user for user in ring if result_shapes(user)[0] == shape]
    return None


def find_place(
    few: tuple[Graph, Node], more: tuple[Graph, Node], deltas: list[Tensor | None]
) -> Place | None:
    """The samples' place in an operation's result, or None where it cannot be told.

    Args:
        few: graph and operation of a batch of two samples.
        more: the same of three.
        deltas: the result's gradients for a loss of sample 0 alone, then of sample 1 alone.
    """
    (shape, *_), (larger, *_) = result_shapes(few[1]), result_shapes(more[1])
    if len(shape) != len(larger):
        return None
    grown = [d for d in range(len(shape)) if shape[d] != larger[d]]
    if len(grown) != 1:
        return None
    axis = grown[0]
    entries, rest = divmod(shape[axis], 2)
    if rest or larger[axis] != 3 * entries:
        return None
    if entries == 1:
        return Place(axis) if _separate(deltas, Layout(2, axis, 1, 1)) else None
    split, wider = _split_shape(*few), _split_shape(*more)
    if axis != 0 or split is None or wider is None or len(split) != len(wider):
        return _tried(deltas, axis, entries)
    grown = [d for d in range(len(split)) if split[d] != wider[d]]
    if len(grown) != 1:
        return None
    if (split[grown[0]], wider[grown[0]]) == (2, 3):
        place = Place(axis, grown[0])
        layout = place.resolve(*few, 2)
        return place if layout is not None and _separate(deltas, layout) else None
    # Windows, say, along a dimension of the view.
    before, after = math.prod(split[: grown[0]]), math.prod(split[grown[0] + 1 : -1])
    viewed = [None if delta is None else delta.reshape(split) for delta in deltas]
    found = _tried(viewed, grown[0], split[grown[0]] // 2)
    if found is None:
        return None
    return Place(axis, None, before * found.outer, found.inner * after)


def _separate(deltas: list[Tensor | None], layout: Layout) -> bool:
    """Whether a loss of one sample has no gradient at the other's entries."""
    return not any(
        layout.arrange(delta)[1 - sample].count_nonzero()
        for sample, delta in enumerate(deltas)
        if delta is not None
    )


def _tried(deltas: list[Tensor | None], axis: int, entries: int) -> Place | None:
    """The place that the gradients of single samples show, where they show all of it."""
    first, second = deltas
    if first is None or second is None:
        return None
    mine, others = (
        (d.movedim(axis, 0).reshape(2 * entries, -1) != 0).any(1) for d in (first, second)
    )
    # An entry without a gradient may be anyone's.
    if not torch.equal(mine, ~others):
        return None
    for outer in (o for o in range(1, entries + 1) if entries % o == 0):
        owners = others.view(outer, 2, entries // outer)
        if not owners[:, 0].any() and owners[:, 1].all():
            return Place(axis, None, outer, entries // outer)
    return None
