"""Ops read tensors where they lie: any strides, offsets, overlaps, on each instruction set.

The views and the comparison stand in tests/strided.py, which calls them more often.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from op_samples import SAMPLES, registered_ops
from strided import WRAPPERS, check_call, results, scattered, strided_calls

from fishermask_fast import reference
from fishermask_fast.ops import weights

# So many of masked_grad_conv2d meet positions that are neighbours at their ends alone.
CALLS = {"masked_grad_conv2d": 120}


def test_every_op_has_a_wrapper() -> None:
    assert registered_ops() == sorted(WRAPPERS)


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_views_give_what_contiguous_tensors_give(name: str, instruction_set: str) -> None:
    calls = strided_calls(name, seed=0)
    for _ in range(CALLS.get(name, 30)):
        check_call(name, *next(calls))


# Where a transposed image's position (1, 1) stands as far from (0, 0) as a vector's last lane, and
# others: 2 positions fewer than a vector has lanes.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [2, 6, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_transposed_images(
    side: int, channels: int, dtype: torch.dtype, instruction_set: str, assert_close: Any
) -> None:
    options: Any = ([1, 1], [1, 1], [1, 1], 1)
    x = torch.randn(4, channels, side, side, dtype=dtype).transpose(2, 3)
    delta = torch.randn(4, 2, side, side, dtype=dtype)
    expected = reference.conv2d_weight_gradients(x.double(), delta.double(), *options).flatten(1)
    for count in (1, 2 * channels):  # by dot products, and by tiles
        index = torch.arange(count)
        found = weights.masked_grad_conv2d(x, delta, index, *options)
        assert_close(found, expected[:, index], side**2)


@pytest.mark.parametrize("name", [n for n in sorted(WRAPPERS) if WRAPPERS[n][1]])
def test_what_must_be_contiguous_is_refused_otherwise(name: str) -> None:
    rng = random.Random(0)
    sample = max(SAMPLES[name](), key=lambda s: sum(x.numel() for x in s.arguments[-3:]
                                                    if isinstance(x, torch.Tensor)))  # fmt: skip
    for at in WRAPPERS[name][1]:
        arguments = list(sample.fresh_arguments())
        while arguments[at].is_contiguous():
            arguments[at] = scattered(arguments[at], rng)
        with pytest.raises(ValueError, match="must be contiguous"):
            results(name, tuple(arguments))
