"""Which parameters count: the choice of k of a network's P parameters, tensor by tensor.

From scores f_i (the Fisher diagonal, f_i = E_x E_{y~p(y|x)} (d log p_y(x) / d theta_i)^2):

    global     the head, then the largest f_i of all other tensors until k = floor(fraction P)
    per_layer  the ceil(fraction size) largest of each tensor, and the head
    relative   in each tensor the entries above twice its mean, at most 2.5% of it, and the head
    random     k parameters uniformly, without replacement
    head       the head alone

A head is a module, weight and bias; keeping it whole is a choice. Ties go to the lowest position.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fishermask_fast.masks.checks import (
    Shapes,
    check_masked,
    check_same_shapes,
    check_scores,
    check_share,
)
from fishermask_fast.masks.mask_file import MaskContent, read_mask, write_mask
from fishermask_fast.network import check_seed, find_head, trainable, unwrap

__all__ = [
    "METHODS",
    "FisherMask",
    "TensorShare",
    "check_fraction",
]

METHODS = ("global", "per_layer", "relative")
_RELATIVE_ABOVE = 2.0
_RELATIVE_MOST = 0.025


class TensorShare(NamedTuple):
    """How much of one tensor a mask holds."""

    name: str
    masked: int
    size: int


@dataclass(frozen=True, eq=False)
class FisherMask:
    """k parameters of a network.

    Attributes:
        shapes: name -> shape of every trainable parameter, in the model's order.
        indices: name -> sorted flat positions (int64), for tensors of which any are masked.
        method: how the mask was chosen.
        head_names: names of the head's parameters; empty where none is known.

    Raises:
        TypeError: positions that are not int64 tensors.
        ValueError: no positions at all, a name without shape, or positions that are not (m,),
            ascending and within their tensor.
    """

    shapes: dict[str, tuple[int, ...]]
    indices: dict[str, Tensor]
    method: str
    head_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_masked(self.shapes, self.indices, self.head_names)

    def __len__(self) -> int:
        return sum(index.numel() for index in self.indices.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FisherMask):
            return NotImplemented
        return (
            self.shapes == other.shapes
            and self.indices.keys() == other.indices.keys()
            and all(torch.equal(i, other.indices[name]) for name, i in self.indices.items())
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, Tensor],
        fraction: float,
        method: str = "global",
        *,
        head: str | None = None,
        keep_head: bool = True,
    ) -> FisherMask:
        """The parameters of largest score.

        Args:
            scores: name -> score of every trainable parameter (as from `fisher_diagonal`).
            fraction: share of the parameters, in (0, 1]. "relative" has limits of its own.
            method: "global", "per_layer" or "relative".
            head: name of the head module; by default the last one with a matrix as its weight.
            keep_head: whether the head's weight and bias are masked whole, whatever their scores.

        Raises:
            TypeError: scores are not a mapping of floating-point tensors.
            ValueError: an unknown method, a fraction outside (0, 1] or too small for the head,
                scores that are not finite, no head of that name, or an empty mask.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        check_share(fraction)
        check_scores(scores)
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        head_names = _head_names(shapes, head, required=keep_head)
        kept = set(head_names) if keep_head else set()
        flat = {name: score.detach().flatten().cpu() for name, score in scores.items()}
        if method == "global":
            chosen = _global(flat, fraction, kept)
        elif method == "per_layer":
            counts = {name: math.ceil(_product(fraction, s.numel())) for name, s in flat.items()}
            chosen = {name: _largest(s, counts[name]) for name, s in flat.items()}
        else:
            chosen = {name: _relative(s) for name, s in flat.items()}
        for name in kept:
            chosen[name] = torch.arange(flat[name].numel())
        return cls._of(shapes, chosen, method, head_names)

    @classmethod
    def random(
        cls,
        model: nn.Module,
        fraction: float,
        *,
        seed: int = 0,
        head: str | None = None,
        keep_head: bool = False,
    ) -> FisherMask:
        """k = floor(fraction P) trainable parameters uniformly, without replacement.

        Args:
            model: whose parameters.
            fraction: share of the parameters, in (0, 1].
            seed: of the draw; the global random state plays no part.
            head: name of the head module; found if None.
            keep_head: whether the head is masked whole and only the rest drawn.

        Raises:
            TypeError: the fraction is no number, or the seed no int.
            ValueError: as for `from_scores`, or a negative seed.
        """
        check_share(fraction)
        shapes = _shapes_of(model)
        generator = torch.Generator().manual_seed(check_seed(seed))
        scores = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        # Ranks of a random permutation as scores: no two are equal, so no tie decides.
        order = torch.randperm(_count(shapes), generator=generator).double()
        start = 0
        for score in scores.values():
            score.view(-1).copy_(order[start : start + score.numel()])
            start += score.numel()
        if head is None:
            head = find_head(model)
        if head is None and keep_head:
            raise ValueError("the model has no nn.Linear to keep as its head; use keep_head=False")
        mask = cls.from_scores(scores, fraction, "global", head=head, keep_head=keep_head)
        return cls(mask.shapes, mask.indices, "random", mask.head_names)

    @classmethod
    def head(cls, model: nn.Module, head: str | None = None) -> FisherMask:
        """The head's weight and bias and nothing else, as BAIT uses it.

        Args:
            model: whose head.
            head: name of the head module; the last nn.Linear if None.

        Raises:
            ValueError: there is no such module, or it has no trainable parameters.
        """
        shapes = _shapes_of(model)
        if head is None:
            head = find_head(model)
        if head is None:
            raise ValueError("the model has no trainable nn.Linear to take as its head; name one")
        names = _head_names(shapes, head, required=True)
        chosen = {name: torch.arange(math.prod(shapes[name])) for name in names}
        return cls._of(shapes, chosen, "head", names)

    @classmethod
    def _of(
        cls,
        shapes: dict[str, tuple[int, ...]],
        chosen: Mapping[str, Tensor],
        method: str,
        head_names: tuple[str, ...],
    ) -> FisherMask:
        indices = {name: chosen[name] for name in shapes if name in chosen and len(chosen[name])}
        if not indices:
            raise ValueError(
                f"the {method} mask is empty: no parameter qualifies; use a larger fraction or "
                "another method"
            )
        return cls(shapes, indices, method, head_names)

    def profile(self) -> list[TensorShare]:
        """How many entries of each tensor are masked, in the model's order, with zeros."""
        return [
            TensorShare(name, self._index(name).numel(), math.prod(shape))
            for name, shape in self.shapes.items()
        ]

    def overlap(self, other: FisherMask) -> float:
        """Parameters that both masks hold, as a share of the larger mask.

        Raises:
            TypeError: the other is no FisherMask.
            ValueError: the masks are for different models.
        """
        if not isinstance(other, FisherMask):
            raise TypeError(f"other must be a FisherMask; got {type(other).__name__}")
        check_same_shapes(self.shapes, other.shapes, "the other mask", "this mask")
        common = sum(
            int(torch.isin(index, other._index(name), assume_unique=True).sum())
            for name, index in self.indices.items()
        )
        return common / max(len(self), len(other))

    def _index(self, name: str) -> Tensor:
        return self.indices.get(name, torch.empty(0, dtype=torch.int64))

    def check(self, model: nn.Module) -> None:
        """Raises unless the mask was made for a model of these trainable parameters.

        Raises:
            ValueError: names or shapes differ; says which, first of all.
        """
        check_same_shapes(self.shapes, _shapes_of(model), "the model", "the mask")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the mask to one file (numpy's npz), whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        content = MaskContent(self.shapes, self.indices, self.method, self.head_names)
        write_mask(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FisherMask:
        """Reads a mask that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no mask, is damaged, or is of a newer format.
        """
        try:
            return cls(*read_mask(path))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a saved FisherMask: {error}") from error


def check_fraction(
    model: nn.Module, fraction: float, method: str = "global", keep_head: bool = True
) -> None:
    """Raises, before any gradient is taken, where `from_scores` or `random` would.

    Raises:
        TypeError: the fraction is no number.
        ValueError: it is outside (0, 1], or leaves a "global" or "random" mask too few parameters
            for the head that is to be kept, or none.
    """
    check_share(fraction)
    if method not in ("global", "random"):
        return
    shapes = _shapes_of(model)
    head = _head_names(shapes, find_head(model), required=True) if keep_head else ()
    _mask_size(_count(shapes), fraction, sum(math.prod(shapes[name]) for name in head))


def _shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in trainable(unwrap(model)).items()}


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _product(fraction: float, size: int) -> float:
    """fraction * size without the last bits that would move a whole number down or up."""
    return round(fraction * size, 9)


def _head_names(shapes: Shapes, head: str | None, required: bool) -> tuple[str, ...]:
    """The parameters of the head module `head`, or of the last with a matrix named weight."""
    if head is None:
        matrices = [
            name
            for name, shape in shapes.items()
            if name.rpartition(".")[2] == "weight" and len(shape) == 2
        ]
        if not matrices:
            if required:
                raise ValueError(
                    "no tensor looks like a head (a weight of two dimensions); name the head "
                    "module or use keep_head=False"
                )
            return ()
        head = matrices[-1].rpartition(".")[0]
    names = tuple(name for name in shapes if name.rpartition(".")[0] == head)
    if not names:
        raise ValueError(f"head {head!r} has no trainable parameters; there are {list(shapes)}")
    return names


def _global(flat: dict[str, Tensor], fraction: float, kept: set[str]) -> dict[str, Tensor]:
    size = sum(flat[name].numel() for name in kept)
    k = _mask_size(sum(score.numel() for score in flat.values()), fraction, size)
    others = [name for name in flat if name not in kept]
    if not others:
        return {}
    positions = _largest(torch.cat([flat[name] for name in others]), k - size)
    chosen, start = {}, 0
    for name in others:
        end = start + flat[name].numel()
        chosen[name] = positions[(positions >= start) & (positions < end)] - start
        start = end
    return chosen


def _mask_size(total: int, fraction: float, head_size: int) -> int:
    """k = floor(fraction P), at least the head that is kept, or one parameter."""
    k = math.floor(_product(fraction, total))
    least = max(head_size, 1)
    if k < least:
        need = math.ceil(least / total * 1e6) / 1e6
        what = f"the head's {head_size} parameters" if head_size else "one parameter"
        raise ValueError(
            f"fraction {fraction} of {total} parameters is k = {k}, fewer than {what}; "
            f"use fraction >= {need}" + (", or keep_head=False" if head_size else "")
        )
    return k


def _relative(score: Tensor) -> Tensor:
    above = int((score > _RELATIVE_ABOVE * score.double().mean()).sum())
    return _largest(score, min(above, math.floor(_product(_RELATIVE_MOST, score.numel()))))


def _largest(score: Tensor, count: int) -> Tensor:
    """Sorted positions of the `count` largest, the lowest first among equals."""
    order = score.sort(descending=True, stable=True).indices
    return order[:count].sort().values
