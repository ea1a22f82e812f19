"""Which samples have equal factors: near-ties among these need no scores.

Equal ones are found by digests of their numbers, then told by the numbers themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.factors.gradient_factors import GradientFactors

# Odd numbers far apart, whose multiples mix all bits of a number into its digest.
_STEP, _START = 0x9E3779B97F4A7C15 - 2**64, 0x632BE59BD9B4E019
# Numbers of the samples at work.
_CHUNK_NUMBERS = 2**22


def first_of_equal(factors: GradientFactors, beside: Tensor | None = None) -> Tensor:
    """The lowest place of each group of samples with equal parts, ascending, int64.

    Args:
        factors: of the samples.
        beside: (n,) numbers that count as a part of each; None for none.
    """
    flat = _numbers(factors, beside)
    n = len(flat)
    places = torch.arange(n, device=flat.device)
    _, group = torch.unique(_digests(flat), return_inverse=True)
    lowest = torch.full_like(places, n).scatter_reduce_(0, group, places, "amin")[group]
    # One digest of unequal samples: each that differs from the first stands for itself.
    return places[(lowest == places) | (flat != flat[lowest]).any(1)]


def next_of_equal(factors: GradientFactors, places: Tensor, beside: Tensor) -> Tensor:
    """For each of some samples the next one of them with equal parts, (n,) int64, or N.

    Of unequal samples with one digest some may be said to have no equal.

    Args:
        factors: of N samples.
        places: (n,) int64, ascending, which of them.
        beside: (N, c) numbers that count as parts of each.
    """
    width = _numbers(factors[places[:1]], beside[places[:1]]).shape[1]
    size = max(1, _CHUNK_NUMBERS // width)
    found = [_digests(_numbers(factors[some], beside[some])) for some in places.split(size)]
    digests, order = torch.cat(found).sort(stable=True)
    found_next = torch.full_like(places, len(factors))
    pairs = (digests[1:] == digests[:-1]).nonzero().squeeze(1)
    for some in pairs.split(size):
        first, second = order[some], order[some + 1]
        one, other = places[first], places[second]
        same = _numbers(factors[one], beside[one]) == _numbers(factors[other], beside[other])
        equal = same.all(1)
        found_next[first[equal]] = other[equal]
    return found_next


def _numbers(factors: GradientFactors, beside: Tensor | None) -> Tensor:
    """All numbers of each sample, (n, width) float64."""
    parts = (factors.middle, factors.coupling, factors.hidden, beside)
    flat = torch.cat(
        [part[:, None].flatten(1).double() for part in parts if part is not None], dim=1
    )
    return flat.add_(0.0)  # -0 is 0


def _digests(numbers: Tensor) -> Tensor:
    """(n,) int64, equal for equal rows and almost surely for no others."""
    weights = torch.arange(numbers.shape[1], device=numbers.device) * _STEP + _START
    return (numbers.view(torch.int64) * (weights | 1)).sum(1)
