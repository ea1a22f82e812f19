"""A likelihood of the user's own: a function from outputs z (N, ...) to rows R (N, r, o).

    R^T R = E_{y~p(y|z)} [grad_z log p(y|z) grad_z log p(y|z)^T]

is the function's to keep, z flattened to o numbers a sample. Fewer rows are the largest singular
values of R; one row at random is s^T R with signs s, whose square is R^T R on average.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.likelihoods.likelihood import check_options

RowsFunction = Callable[[Tensor], Tensor]
"""From outputs (n, ...) in float64 to rows (n, r, outputs)."""

# What rounding may change in a sample's R^T R between batches, relative to its largest entry.
_ALONE = 1e-6
# What a model's outputs may differ by between machines, in the numbers that a file remembers.
_REMEMBERED = 1e-4


@dataclass(frozen=True)
class Custom:
    """Outputs of any shape (N, ...), and the user's function of their rows."""

    function: RowsFunction

    @property
    def name(self) -> str:
        return _qualified_name(self.function)

    def check_options(self, weighting: str, rank: int | None) -> None:
        check_options(weighting, rank)
        if weighting == "none":
            raise ValueError(
                'weighting "none" is not for a likelihood given as a function, whose rows have '
                'their weights already; use weighting "fisher"'
            )

    def check_shape(self, shape: Sequence[int]) -> None:
        if 0 in shape[1:]:
            raise ValueError(f"the model's outputs hold no numbers; got shape {tuple(shape)}")

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        rows = self._call(outputs)
        if len(outputs) > 1:
            self._check_alone(outputs, rows)
        if rank is None or rank == rows.shape[1]:
            return rows
        if rank > rows.shape[1]:
            raise ValueError(
                f"rank must be at most the {rows.shape[1]} rows that likelihood {self.name} gives; "
                f"got {rank}"
            )
        _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
        kept = sizes[:, :rank, None] * directions[:, :rank]
        # With fewer outputs than rank, rows of zeros keep the number of rows.
        return torch.nn.functional.pad(kept, (0, 0, 0, rank - kept.shape[1]))

    def n_uniform(self, outputs: Tensor) -> int:
        return self._call(outputs[:1]).shape[1]

    def sampled_rows(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        rows = self.make_rows(outputs)
        if rows.shape[1] != uniform.shape[1]:
            raise ValueError(
                f"likelihood {self.name} must give as many rows for every sample; got "
                f"{rows.shape[1]} after {uniform.shape[1]}"
            )
        signs = torch.where(uniform.to(rows) < 0.5, -1.0, 1.0).to(rows.dtype)
        return signs[:, None, :] @ rows

    def identity(self, samples: Iterable[Tensor]) -> str:
        """The function's name, and two numbers of each sample's R^T R: its trace and w^T R^T R w.

        A name alone would let a file go on after the function's own settings have changed.
        """
        numbers: list[float] = []
        for outputs in samples:
            rows = self._call(outputs)[0]
            w = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device).cos()
            numbers += [float(rows.square().sum()), float((rows @ w).square().sum())]
        return " ".join([self.name, *(f"{number:.9e}" for number in numbers)])

    def _call(self, outputs: Tensor) -> Tensor:
        n, n_outputs = len(outputs), outputs[0].numel()
        rows = self.function(outputs.detach().double())
        if not isinstance(rows, Tensor) or not rows.is_floating_point():
            kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
            raise TypeError(
                f"likelihood {self.name} must return a floating-point Tensor (n, r, outputs); got "
                f"{kind}"
            )
        if rows.ndim != 3 or rows.shape[0] != n or rows.shape[1] < 1 or rows.shape[2] != n_outputs:
            raise ValueError(
                f"likelihood {self.name} must return rows of shape (n, r, outputs), here "
                f"({n}, r, {n_outputs}) for outputs {tuple(outputs.shape)}; got {tuple(rows.shape)}"
            )
        rows = rows.detach().to(outputs.device, torch.float64)
        if not bool(rows.isfinite().all()):
            bad = (~rows.flatten(1).isfinite()).any(1).nonzero()
            raise ValueError(
                f"likelihood {self.name} must return finite rows; those of {len(bad)} of {n} "
                f"samples hold NaN or Inf, the first for outputs {outputs[int(bad[0])].tolist()}"
            )
        return rows

    def _check_alone(self, outputs: Tensor, rows: Tensor) -> None:
        """Raises where a sample's rows depend on what else is in the batch."""
        alone = self._call(outputs[:1])[0]
        if len(alone) == rows.shape[1]:
            expected, found = alone.mT @ alone, rows[0].mT @ rows[0]
            if (found - expected).abs().max() <= _ALONE * expected.abs().max():
                return
        raise ValueError(
            f"likelihood {self.name} must give the rows of each sample from its own outputs alone; "
            "those of the first sample differ when it is alone in a batch"
        )


def different_likelihoods(there: str, here: str) -> str:
    """In what two identities differ, in words; empty where both are of one likelihood.

    Numbers may differ by what the rounding of a model's outputs changes from machine to machine.
    """
    if there == here:
        return ""
    (name, *numbers), (other, *others) = there.split(" "), here.split(" ")
    if name != other:
        return f"{name} there, {other} here"
    if len(numbers) == len(others):
        a, b = (
            torch.tensor([float(number) for number in values], dtype=torch.float64)
            for values in (numbers, others)
        )
        if bool(((a - b).abs() <= _REMEMBERED * torch.maximum(a.abs(), b.abs())).all()):
            return ""
    return f"{name} gives other rows here"


def _qualified_name(function: object) -> str:
    if isinstance(function, functools.partial):
        return _qualified_name(function.func)
    # An instance with __call__ goes by its class; its repr would hold its address.
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{getattr(named, '__module__', None)}.{getattr(named, '__qualname__', '')}"
    return name.replace(" ", "_")
