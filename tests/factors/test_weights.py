"""fisher(weights=) of every kind of factors against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pools import HEADS, random_factors

from fishermask_fast import reference, save_factors
from fishermask_fast.factors import StreamedFactors

N = 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("head", HEADS)
def test_weighted_fisher(
    head: str, dtype: torch.dtype, generator: torch.Generator, tmp_path: Path
) -> None:
    factors = random_factors(generator, n=N, c=4, d=9, head=head, dtype=dtype)
    weights = torch.rand(N, generator=generator) * (torch.arange(N) % 3)
    wide = factors.to(dtype=torch.float64).dense()
    expected = reference.target_fisher(wide, weights.double())
    assert not torch.allclose(expected, factors.fisher(), rtol=0.1)
    stored = save_factors(factors, tmp_path / "factors.safetensors")
    streamed = StreamedFactors(stored, torch.device("cpu"), chunk_bytes=7 * factors.sample_bytes)
    for kind in (factors, stored, streamed):
        for size in (None, 7):
            found = kind.fisher(size, weights=weights)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(found, found.T)
        ones = kind.fisher(weights=torch.full((N,), 3))
        torch.testing.assert_close(ones, kind.fisher(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(kind.fisher(weights=weights.numpy()), expected)


@pytest.mark.parametrize(
    "weights,kind,text",
    [
        (torch.ones(N - 1), ValueError, r"weights must have shape \(40,\), one a sample"),
        (torch.ones(N, 1), ValueError, r"got \(40, 1\)"),
        (-torch.ones(N), ValueError, "0 or more; got -1 at index 0"),
        (torch.full((N,), torch.nan), ValueError, "finite and 0 or more; got nan"),
        (torch.zeros(N), ValueError, "weights must not all be zero"),
        ("balanced", TypeError, "weights must be a Tensor of shape"),
        (torch.ones(N, dtype=torch.bool), TypeError, "weights must be a Tensor of shape"),
    ],
    ids=range(7),
)
def test_weights_that_are_refused(weights: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        random_factors(torch.Generator(), n=N).fisher(weights=weights)
