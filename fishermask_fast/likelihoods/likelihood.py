"""What the rest of the package asks of a likelihood p(y | z), z the outputs of the model.

Of samples' outputs z (N, ...), o numbers a sample, it gives the rows R_x (N, r, o) with

    R^T R = E_{y~p(y|z)} [grad_z log p(y|z) grad_z log p(y|z)^T],

the Fisher matrix of the output distribution in the outputs, so that V_x = R_x J_x has the sample's
Fisher information as V_x^T V_x (Martens 2020, "New insights and perspectives on the natural
gradient method", section 9).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from fishermask_fast.checks import check_choice, check_integer, is_integer, shown

WEIGHTINGS = ("fisher", "none")


class Likelihood(Protocol):
    """The distribution of the labels given a model's outputs, as rows of its Fisher matrix."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def check_options(self, weighting: str, rank: int | None) -> None:
        """Raises for a weighting or a rank that cannot be, before anything is computed.

        Raises:
            TypeError: rank is not an int.
            ValueError: an unknown weighting, rank below 1, or one that has no meaning here.
        """

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises ValueError where outputs of `shape` (n, ...) are not those of this likelihood."""

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        """R_x of every sample, (N, r, o) in float64, of outputs (N, ...).

        Raises:
            ValueError: a rank above the rows that there are.
        """

    def n_uniform(self, outputs: Tensor) -> int:
        """Numbers in [0, 1) that drawing one sample's label takes, of outputs like these."""

    def sampled_rows(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        """grad_z log p(y|z) of a y drawn from p by `uniform` (N, n_uniform): (N, 1, o)."""

    def identity(self, samples: Iterable[Tensor]) -> str:
        """What rows depend on besides outputs, weighting and rank, in words for a file.

        Args:
            samples: outputs (1, ...) of a few samples, each made when it is asked for.
        """


def check_options(weighting: str, rank: int | None) -> None:
    """What holds for every likelihood: see `Likelihood.check_options`."""
    check_choice("weighting", weighting, WEIGHTINGS)
    if rank is None:
        return
    if not is_integer(rank):
        raise TypeError(f"rank must be an int or None; got {shown(rank)}")
    check_integer("rank", rank, 1)
    if weighting == "none":
        # All but two eigenvalues of (I - p 1^T)(I - 1 p^T) are 1: nothing to leave out.
        raise ValueError(
            f'rank is for weighting "fisher" only, whose rows differ in size; got rank={rank} '
            'with weighting "none"'
        )


def check_vectors(shape: Sequence[int], likelihood: str) -> None:
    """Raises unless outputs are (N, o) or, with one output a sample, (N,)."""
    if len(shape) not in (1, 2) or 0 in shape[1:]:
        raise ValueError(
            f"the model's outputs must have shape (N, outputs) or (N,) with likelihood "
            f"{likelihood!r}; got {tuple(shape)}. {OTHER_SHAPES}"
        )


OTHER_SHAPES = "Outputs of another shape take a likelihood of your own: a function that gives rows"
