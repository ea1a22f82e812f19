"""Which samples have equal factors: near-ties among these need no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.factors.gradient_factors import GradientFactors

# Odd numbers far apart, whose multiples mix all bits of a number into its digest.
_STEP, _START = 0x9E3779B97F4A7C15 - 2**64, 0x632BE59BD9B4E019


def first_of_equal(factors: GradientFactors, beside: Tensor | None = None) -> Tensor:
    """The lowest place of each group of samples with equal parts, ascending, int64.

    Args:
        factors: of the samples.
        beside: (n,) numbers that count as a part of each; None for none.
    """
    parts = (factors.middle, factors.coupling, factors.hidden, beside)
    flat = torch.cat(
        [part.reshape(len(part), -1).double() for part in parts if part is not None], dim=1
    )
    flat.add_(0.0)  # -0 is 0
    n, width = flat.shape
    places = torch.arange(n, device=flat.device)
    weights = (torch.arange(width, device=flat.device) * _STEP + _START) | 1
    digests = (flat.view(torch.int64) * weights).sum(1)
    _, group = torch.unique(digests, return_inverse=True)
    lowest = torch.full_like(places, n).scatter_reduce_(0, group, places, "amin")[group]
    # One digest of unequal samples: each that differs from the first stands for itself.
    return places[(lowest == places) | (flat != flat[lowest]).any(1)]
