"""Symmetric matrices by their lower triangles, against the whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fishermask_fast import triangles

BLOCKS = (1, 3, 256)


@pytest.fixture
def symmetric(generator: torch.Generator) -> Tensor:
    half = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    return half + half.T


@pytest.mark.parametrize("block", BLOCKS)
def test_mirrored(symmetric: Tensor, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangles, "_BLOCK", block)
    given = symmetric + torch.ones(7, 7).triu(1)  # what stands above counts for nothing
    assert torch.equal(triangles.mirrored(given), symmetric)
    assert torch.equal(triangles.mirrored(given.expand(2, 7, 7)), symmetric.expand(2, 7, 7))
    assert triangles.mirror_lower(given) is given
    assert torch.equal(given, symmetric)


@pytest.mark.parametrize("block", BLOCKS)
def test_added_to_the_lower_triangle_of_a_corner(
    symmetric: Tensor, block: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triangles, "_BLOCK", block)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found, expected = symmetric.clone(), symmetric.clone()
    triangles.add_to_lower(found, x, x, 0.5)
    expected[:5, :5] += 0.5 * x.T @ x
    torch.testing.assert_close(triangles.mirrored(found), expected)


@pytest.mark.parametrize("r", [0, 1, 4])
def test_packed_and_unpacked(r: int, generator: torch.Generator) -> None:
    half = torch.randn(3, r, r, generator=generator)
    matrices = half + half.mT
    found = triangles.packed(matrices)
    assert found.shape == (3, r * (r + 1) // 2)
    for packed, matrix in zip(found.tolist(), matrices.tolist(), strict=True):
        assert packed == [matrix[i][j] for i in range(r) for j in range(i + 1)]
    assert torch.equal(triangles.unpacked(found, r), matrices)
