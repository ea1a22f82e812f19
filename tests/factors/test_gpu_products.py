"""The products that a GPU takes, on tensors without data: launches counted, and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pools import HEADS, random_factors, random_fisher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fishermask_fast import GradientFactors
from fishermask_fast.engine.device_blocks import leaders_that_fit


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU, and the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.most_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = func._schema.returns[0].alias_info if func._schema.returns else None
        view = first is not None and not first.is_write
        self.count += not view and "empty" not in func._schema.name
        if isinstance(out, Tensor) and not view:
            self.most_bytes = max(self.most_bytes, out.nbytes)
        return out


def without_data(
    n: int, r: int, m: int, c: int = 0, d: int = 0, masked: int | None = None
) -> GradientFactors:
    """float32 factors on torch's meta device, which takes the way of a GPU."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    if c == 0:
        return GradientFactors(empty(n, r, m))
    index = None if masked is None else empty(masked, dtype=torch.int64)
    return GradientFactors._with(empty(n, r, m), empty(n, r, c), empty(n, d), index)


def matrix(k: int) -> Tensor:
    return torch.empty(k, k, dtype=torch.float64, device="meta")


WORK: dict[str, Callable[[GradientFactors], object]] = {
    "fisher": lambda v: v.fisher(),
    "set-up": lambda v: v.quadratic_forms(matrix(v.n_columns), matrix(v.n_columns)),
    "grams": lambda v: v.grams(),
}


@pytest.mark.parametrize("work", WORK)
def test_launches_of_a_large_pool(work: str) -> None:
    """N = 25,000 of ten classes: few launches a chunk, and few chunks."""
    with Launches() as launches:
        WORK[work](without_data(25_000, 9, 122, 10, 128))
    assert launches.count <= 250


@pytest.mark.parametrize("work", ["fisher", "set-up"])
def test_products_of_many_columns_are_wide(work: str) -> None:
    factors = without_data(2_500, 10, 22_000)
    chunks = -(-len(factors) // factors.default_chunk_size())
    with Launches() as launches:
        WORK[work](factors)
    assert launches.count <= 20 * chunks + 20


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(("c", "d", "masked"), [(100, 512, 500), (24, 512, 1_000), (10, 64, 20)])
def test_a_masked_head_is_not_expanded_to_the_whole(c: int, d: int, masked: int, work: str) -> None:
    factors = without_data(500, 5, 7, c, d, masked)
    with Launches() as launches:
        WORK[work](factors)
    own = 8 * factors.n_columns**2
    assert launches.most_bytes <= max(4 * own, 513 * 2**20)
    assert launches.most_bytes < 8 * (c * d) ** 2


@pytest.mark.parametrize("head", HEADS)
def test_they_are_the_products_of_the_cpu(
    head: str,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    assert_close: Callable[..., None],
) -> None:
    factors = random_factors(generator, n=50, r=3, m=20, c=5, d=6, head=head)
    k = factors.n_columns
    matrices = [random_fisher(generator, k) for _ in range(2)]

    def results() -> list[Tensor]:
        return [factors.fisher(), *factors.quadratic_forms(*matrices, chunk_size=7)]

    expected = results()
    for room in ("factors.quadratic_forms", "factors.products", "triangles"):
        monkeypatch.setattr(f"fishermask_fast.{room}.on_cpu", lambda tensor: False)
    monkeypatch.setattr("fishermask_fast.factors.masked_head.suits", lambda *parts: False)
    for block in (4096, 5):
        monkeypatch.setattr("fishermask_fast.triangles._GPU_BLOCK", block)
        for found, wanted in zip(results(), expected, strict=True):
            assert_close(found, wanted, k=k)


@pytest.mark.parametrize(("r", "k", "block"), [(1, 10, 16), (9, 1_402, 16), (99, 51_200, 32)])
@pytest.mark.parametrize("free", [0, 10**6, 8 * 10**9, 80 * 10**9])
def test_leaders_leave_room(r: int, k: int, block: int, free: int) -> None:
    def needed(m: int) -> int:
        return 16 * (m * r) ** 2 + 24 * m * r * k + 16 * block * m * r**2

    m = leaders_that_fit(r, k, block, free)
    assert m == 1 or needed(m) <= free / 4 * (1 + 1e-9)
    assert needed(m + 1) > free / 4 * (1 - 1e-9)
    assert leaders_that_fit(r, k, block, None) > 10**9
