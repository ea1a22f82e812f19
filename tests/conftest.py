"""What all tests share: seeds, tolerances, the instruction sets to run on, and the cuda marker."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import torch
from pools import ADVERSARIAL, Adversarial, adversarial_pool
from torch import Tensor

from fishermask_fast import _C, build_info

INSTRUCTION_SETS = ("portable", "avx2", "avx512")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m cuda` reads files with such tests alone: others need what a card's machine may lack."""
    if config.option.markexpr != "cuda" or collection_path.suffix != ".py":
        return None
    return True if "mark.cuda" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() and build_info().cuda_architectures:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and the compiled CUDA ops")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


def pytest_make_parametrize_id(val: object) -> str | None:
    """The name of a function, whose repr holds an address that no two processes share."""
    return val.__name__ if isinstance(val, FunctionType) else None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same global random state before every test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own, on the CPU."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine can run, one after the other."""
    before = _C.instruction_set()
    _C.set_instruction_set(request.param)
    if _C.instruction_set() != request.param:
        _C.set_instruction_set(before)
        pytest.skip(f"this machine cannot run {request.param}")
    yield request.param
    _C.set_instruction_set(before)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def float_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both dtypes that gradients are computed with."""
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture(params=ADVERSARIAL)
def adversarial(request: pytest.FixtureRequest, float_dtype: torch.dtype) -> Adversarial:
    """Each pool full of ties or of sizes far apart, in both dtypes, with its picks."""
    return adversarial_pool(request.param, float_dtype)


def tolerance(dtype: torch.dtype, k: int = 1, condition: float = 1.0) -> float:
    """Relative error allowed to a sum of k products in dtype.

    Rounding errors add up like a random walk, eps sqrt(k), and 16 covers the largest of many such
    sums; a result that amplifies errors in its inputs says by how much in ``condition``.
    """
    return 16.0 * math.sqrt(max(k, 1)) * torch.finfo(dtype).eps * condition


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude, both taken in float64."""
    if expected.numel() == 0:
        return 0.0
    expected = expected.double()
    scale = expected.abs().max().item()
    error = (actual.double() - expected).abs().max().item()
    return error / scale if scale > 0.0 else error


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """assert_close(actual, expected, k=1, condition=1.0, dtype=None, bound=None).

    Compares shapes, and values to the tolerance of k products in ``dtype`` (actual's by default),
    or to ``bound`` where the requirement itself states one.
    """

    def check(
        actual: Tensor,
        expected: Tensor,
        k: int = 1,
        condition: float = 1.0,
        dtype: torch.dtype | None = None,
        bound: float | None = None,
    ) -> None:
        assert actual.shape == expected.shape
        allowed = tolerance(dtype or actual.dtype, k, condition) if bound is None else bound
        error = relative_error(actual, expected)
        # Written so that a NaN fails.
        assert error <= allowed, f"relative error {error:.3g} exceeds {allowed:.3g}"

    return check
