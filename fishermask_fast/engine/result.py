"""What a selection gives: picks s_1 ... s_K, and the objective, tr(M^-1 F), along them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor

from fishermask_fast import plotting
from fishermask_fast.checks import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SHOWN = 6


@dataclass(frozen=True, repr=False)
class Selection:
    """What was selected, and how the objective tr(M^-1 F) came down.

    It counts as the sequence of its picks: ``len(selection)``, ``selection[0]``, ``for index in
    selection``.

    Attributes:
        indices: (K,) int64, the selected samples in the order picked.
        scores: (K,) float64, by how much each lowered the objective when it was picked, whatever
            its gain weight.
        objective: float64, what is minimised, tr(M^-1 F) or -log det M, before the first pick,
            after each pick and each removal. How it flattens tells when picks of this model stop
            teaching it; it cannot tell how accurate the model is, and values of two queries, whose
            models differ, are not to be compared.
        dropped: (b K,) int64, the samples that backward steps dropped, in that order.
        setups: how often the state of every candidate was made anew.
        passes: passes over all candidates' gradients, set-ups apart.
        criterion: "trace" or "logdet", which says what the objective is.

    Example:
        >>> import torch
        >>> from fishermask_fast import select_batch
        >>> selection = select_batch(torch.randn(50, 3, 10), 4)
        >>> len(selection), len(selection.objective)
        (4, 5)
        >>> list(selection) == selection.indices.tolist()
        True
    """

    indices: Tensor
    scores: Tensor
    objective: Tensor
    dropped: Tensor
    setups: int
    passes: int
    criterion: str = "trace"

    def __len__(self) -> int:
        return self.indices.numel()

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        """The sample picked at a place, or those of a slice of places."""
        picks: list[int] = self.indices.tolist()
        return picks[place]

    def __repr__(self) -> str:
        shown = listed(self.indices.tolist(), _MOST_SHOWN)
        dropped = f", {self.dropped.numel()} dropped" if self.dropped.numel() else ""
        scores = ""
        if len(self):
            scores = f", scores {float(self.scores.max()):.3g} to {float(self.scores.min()):.3g}"
        objective = ""
        if self.objective.numel():
            first, last = float(self.objective[0]), float(self.objective[-1])
            name = "tr(M^-1 F)" if self.criterion == "trace" else "-log det M"
            objective = f", {name} {first:.4g} to {last:.4g}"
        return f"Selection([{shown}], K = {len(self)}{dropped}{scores}{objective})"

    def to_frame(self) -> Any:
        """The picks as a pandas DataFrame with columns rank (from 1), index and score.

        Raises:
            ModuleNotFoundError: pandas is not installed.

        Example:
            >>> import torch
            >>> from fishermask_fast import select_batch
            >>> selection = select_batch(torch.randn(50, 3, 10), 4)
            >>> list(selection.to_frame().columns)
            ['rank', 'index', 'score']
        """
        pandas = import_module("pandas")
        ranks = range(1, len(self) + 1)
        return pandas.DataFrame({"rank": ranks, "index": list(self), "score": self.scores.tolist()})

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the objective against picks, and removals where there were any.

        Args:
            axes: matplotlib axes to draw on; new ones if None.

        Returns:
            The axes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.

        Example:
            >>> import torch
            >>> from fishermask_fast import select_batch
            >>> selection = select_batch(torch.randn(50, 3, 10), 4)
            >>> from matplotlib.figure import Figure
            >>> selection.plot(Figure().subplots()).get_xlabel()
            'picks'
        """
        return plotting.curve(
            self.objective.tolist(),
            axes,
            x="picks, then removals" if self.dropped.numel() else "picks",
            y="tr(M$^{-1}$F)" if self.criterion == "trace" else "-log det M",
        )
