"""Which parameters count: k of a network's P, tensor by tensor.

From scores f_i (the Fisher diagonal, f_i = E_x E_{y~p(y|x)} (d log p_y(x) / d theta_i)^2) the
global, per_layer and relative masks of `choice`, and beside them

    random     k parameters uniformly, without replacement
    head       the head alone

A head is what turns the last features into logits, weight and bias; keeping it whole is a choice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fishermask_fast import plotting
from fishermask_fast.checks import check_choice, check_flag, check_path
from fishermask_fast.masks.checks import (
    check_masked,
    check_same_shapes,
    check_scores,
)
from fishermask_fast.masks.choice import METHODS, choose
from fishermask_fast.masks.heads import head_in, head_of
from fishermask_fast.masks.mask_file import MaskContent, read_mask, write_mask
from fishermask_fast.masks.size import check_size, shapes_of, total_size
from fishermask_fast.network import (
    Head,
    Inputs,
    check_seed,
    head_parameters,
    one_head,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SHOWN = 3  # tensors of a mask's repr


class TensorShare(NamedTuple):
    """How much of one tensor a mask holds."""

    name: str
    masked: int
    size: int


@dataclass(frozen=True, eq=False, repr=False)
class FisherMask:
    """k parameters of a network.

    Attributes:
        shapes: name -> shape of every trainable parameter, in the model's order.
        indices: name -> sorted flat positions (int64), for tensors of which any are masked.
        method: how the mask was chosen.
        head_names: names of the head's parameters; empty where none is known.
        reason: why it holds so many, in a few words.

    Raises:
        TypeError: positions that are not int64 tensors.
        ValueError: no positions at all, a name without shape, or positions that are not (m,),
            ascending and within their tensor.

    Example:
        >>> from torch import nn
        >>> from fishermask_fast import FisherMask
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> FisherMask.random(model, n_parameters=10).method
        'random'
        >>> print(FisherMask.head(model))
        FisherMask(head, k = 27 of 67 parameters; the whole head; head 27 of 27)
    """

    shapes: dict[str, tuple[int, ...]]
    indices: dict[str, Tensor]
    method: str
    head_names: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("method", "reason"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} must be a text; got {value!r}")
        check_masked(self.shapes, self.indices, self.head_names)

    def __len__(self) -> int:
        return sum(index.numel() for index in self.indices.values())

    def __repr__(self) -> str:
        total = total_size(self.shapes)
        parts = [f"{self.method}, k = {len(self):,} of {total:,} parameters"]
        if self.reason:
            parts.append(self.reason)
        shares = self.profile()
        head = [share for share in shares if share.name in self.head_names]
        if head:
            masked, size = sum(s.masked for s in head), sum(s.size for s in head)
            parts.append(f"head {masked:,} of {size:,}")
        others = [share for share in shares if share.masked and share not in head]
        others.sort(key=lambda share: -share.masked)
        parts += [f"{s.name} {s.masked:,} of {s.size:,}" for s in others[:_MOST_SHOWN]]
        if len(others) > _MOST_SHOWN:
            parts.append(f"{len(others) - _MOST_SHOWN} tensors more")
        return f"FisherMask({'; '.join(parts)})"

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
        fraction: float | None = None,
        method: str = "global",
        *,
        n_parameters: int | None = None,
        model: nn.Module | None = None,
        inputs: Inputs | None = None,
        head: Head | None = None,
        keep_head: bool = True,
    ) -> FisherMask:
        """The parameters of largest score.

        Args:
            scores: name -> score of every trainable parameter (as from `fisher_diagonal`).
            fraction: share of the parameters, in (0, 1]. "relative" has limits of its own.
            method: "global", "per_layer" or "relative".
            n_parameters: how many parameters, instead of a fraction; with neither, `size` says how
                many the model's size and head call for.
            model: the model that the scores are of, so that its head can be found.
            inputs: a batch for the model, from which the head is read for certain.
            head: name of the head: a module, a parameter, or a tuple of them; () for none. Without
                it and without a model, the one tensor that looks like a head's weight.
            keep_head: whether the head's weight and bias are masked whole, whatever their scores.

        Raises:
            TypeError: scores are not a mapping of floating-point tensors.
            ValueError: an unknown method, a fraction outside (0, 1] or too small for the head,
                scores that are not finite, no head of that name, several layers that may be the
                head, or an empty mask.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> scores = {name: p.detach().abs() for name, p in model.named_parameters()}
            >>> len(FisherMask.from_scores(scores, n_parameters=30, model=model))
            30
        """
        check_choice("method", method, METHODS)
        check_size(fraction, n_parameters)
        check_flag("keep_head", keep_head)
        check_scores(scores)
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        needs_head = keep_head or (fraction is None and n_parameters is None)
        if model is not None:
            check_same_shapes(shapes, shapes_of(model), "the model", "the scores")
            head_names = head_of(model, head, inputs, required=head is not None and head != ())
        else:
            if inputs is not None:
                raise ValueError("inputs are read with model=, which is None")
            head_names = head_in(shapes, head, required=needs_head)
        dtypes = {score.dtype for score in scores.values()}
        flat = {
            # Of one dtype, so that comparisons between tensors are exact.
            name: score.detach().flatten().to("cpu", None if len(dtypes) == 1 else torch.float64)
            for name, score in scores.items()
        }
        chosen, reason = choose(flat, method, head_names, fraction, n_parameters, keep_head)
        return cls._of(shapes, chosen, method, head_names, reason)

    @classmethod
    def random(
        cls,
        model: nn.Module,
        fraction: float | None = None,
        *,
        n_parameters: int | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
        head: Head | None = None,
        keep_head: bool = False,
    ) -> FisherMask:
        """k trainable parameters uniformly, without replacement.

        Args:
            model: whose parameters.
            fraction: share of the parameters, in (0, 1]; k = floor(fraction P).
            n_parameters: how many parameters, instead of a fraction; see `from_scores`.
            seed: of the draw; the global random state plays no part.
            inputs: a batch for the model, from which the head is read for certain.
            head: name of the head; see `from_scores`.
            keep_head: whether the head is masked whole and only the rest drawn.

        Raises:
            TypeError: a number of the wrong type, or the seed no int.
            ValueError: as for `from_scores`, or a negative seed.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> len(FisherMask.random(model, 0.5, seed=1))  # of 67
            33
        """
        check_size(fraction, n_parameters)
        check_flag("keep_head", keep_head)
        shapes = shapes_of(model)
        generator = torch.Generator().manual_seed(check_seed(seed))
        # Ranks of a random permutation as scores: no two are equal, so no tie decides.
        order = torch.randperm(total_size(shapes), generator=generator)
        sizes = [math.prod(shape) for shape in shapes.values()]
        flat = dict(zip(shapes, order.split(sizes), strict=True))
        head_names: tuple[str, ...] = ()
        sized = fraction is not None or n_parameters is not None
        if head is None and inputs is None and sized and not keep_head:
            # The draw does not depend on the head, so that a doubt about it is none here.
            head = one_head(model)
            head_names = () if head is None else head_parameters(model, head)
        else:
            head_names = head_of(model, head, inputs, required=keep_head)
        chosen, reason = choose(flat, "global", head_names, fraction, n_parameters, keep_head)
        return cls._of(shapes, chosen, "random", head_names, reason)

    @classmethod
    def head(
        cls, model: nn.Module, head: Head | None = None, *, inputs: Inputs | None = None
    ) -> FisherMask:
        """The head's weight and bias and nothing else, as BAIT uses it.

        Args:
            model: whose head.
            head: name of the head; see `from_scores`.
            inputs: a batch for the model, from which the head is read for certain.

        Raises:
            ValueError: there is no such head, several layers may be it, or it is frozen.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> list(FisherMask.head(model).indices)
            ['2.weight', '2.bias']
        """
        shapes = shapes_of(model)
        names = head_of(model, head, inputs, required=True)
        chosen = {name: torch.arange(math.prod(shapes[name])) for name in names}
        return cls._of(shapes, chosen, "head", names, "the whole head")

    @classmethod
    def _of(
        cls,
        shapes: dict[str, tuple[int, ...]],
        chosen: Mapping[str, Tensor],
        method: str,
        head_names: tuple[str, ...],
        reason: str,
    ) -> FisherMask:
        indices = {name: chosen[name] for name in shapes if name in chosen and len(chosen[name])}
        if not indices:
            raise ValueError(
                f"the {method} mask is empty: no parameter qualifies; use a larger fraction or "
                "another method"
            )
        return cls(shapes, indices, method, head_names, reason)

    def profile(self) -> list[TensorShare]:
        """How many entries of each tensor are masked, in the model's order, with zeros.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> FisherMask.head(model).profile()[2]
            TensorShare(name='2.weight', masked=24, size=24)
        """
        return [
            TensorShare(name, self._index(name).numel(), math.prod(shape))
            for name, shape in self.shapes.items()
        ]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the share of each tensor that is masked, in the model's order.

        Args:
            axes: matplotlib axes to draw on; new ones if None.

        Returns:
            The axes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> from matplotlib.figure import Figure
            >>> FisherMask.head(model).plot(Figure().subplots()).get_xlabel()
            "% of the tensor's parameters masked"
        """
        return plotting.shares(self.profile(), axes, x="% of the tensor's parameters masked")

    def overlap(self, other: FisherMask) -> float:
        """Parameters that both masks hold, as a share of the larger mask.

        Raises:
            TypeError: the other is no FisherMask.
            ValueError: the masks are for different models.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> mask = FisherMask.head(model)
            >>> mask.overlap(mask)
            1.0
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

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> FisherMask.head(model).check(model)
        """
        check_same_shapes(self.shapes, shapes_of(model), "the model", "the mask")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the mask to one file (numpy's npz), whole or not at all.

        Raises:
            OSError: the file cannot be written.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> FisherMask.head(model).save("mask.npz")
            >>> FisherMask.load("mask.npz") == FisherMask.head(model)
            True
        """
        path = check_path("path", path)
        content = MaskContent(self.shapes, self.indices, self.method, self.head_names, self.reason)
        write_mask(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FisherMask:
        """Reads a mask that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no mask, is damaged, or is of a newer format.

        Example:
            >>> from torch import nn
            >>> from fishermask_fast import FisherMask
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> FisherMask.head(model).save("mask.npz")
            >>> len(FisherMask.load("mask.npz"))
            27
        """
        path = check_path("path", path)
        try:
            return cls(*read_mask(path))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a saved FisherMask: {error}") from error
