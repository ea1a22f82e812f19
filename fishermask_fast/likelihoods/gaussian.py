"""Regression: outputs z are the means of normal distributions of one variance, sigma^2 = 1.

    R^T R = I / sigma^2,    R = I

the Fisher matrix of N(z, sigma^2 I) in its mean. Another sigma is another lambda: rows R / sigma
with lambda have the picks that rows R have with lambda sigma^2, since

    lambda I + sum V^T V / sigma^2 = (lambda sigma^2 I + sum V^T V) / sigma^2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.likelihoods.likelihood import check_options, check_vectors

# Between 0 and 1, where the inverse normal is finite: half of the step of uniform float64 numbers.
_SMALLEST, _LARGEST = 2.0**-54, 1 - 2.0**-53


@dataclass(frozen=True)
class Gaussian:
    """Predicted means (N, d_out), or (N,) of one target; their noise has variance 1."""

    name: str = "gaussian"

    def check_options(self, weighting: str, rank: int | None) -> None:
        check_options(weighting, rank)
        if weighting == "none":
            raise ValueError(
                'weighting "none" counts every outcome alike, of which likelihood "gaussian" has '
                'infinitely many; use weighting "fisher"'
            )
        if rank is not None:
            raise ValueError(
                'rank is not for likelihood "gaussian", whose rows are all of one size: none may '
                f"be left out; got rank={rank}"
            )

    def check_shape(self, shape: Sequence[int]) -> None:
        check_vectors(shape, self.name)

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        self.check_options(weighting, rank)
        n_outputs = outputs[0].numel()
        eye = torch.eye(n_outputs, dtype=torch.float64, device=outputs.device)
        return eye.repeat(len(outputs), 1, 1)

    def n_uniform(self, outputs: Tensor) -> int:
        return outputs[0].numel()

    def sampled_rows(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        """y - z for y drawn from N(z, I): standard normal numbers, all outputs in one row."""
        noise: Tensor = torch.special.ndtri(uniform.double().clamp(_SMALLEST, _LARGEST))
        return noise.to(outputs.device)[:, None, :]

    def identity(self, samples: Iterable[Tensor]) -> str:
        return self.name
