"""Bad input to the selection: which error, what it says, and that nothing was changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pools import HEADS, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, fast_select, select_batch

N, R, K = 12, 3, 17
Change = dict[str, Any]


def gradients() -> Tensor:
    return torch.randn(N, R, K, generator=torch.Generator().manual_seed(1))


def fisher() -> Tensor:
    return random_fisher(torch.Generator().manual_seed(2), K)


def poisoned(value: float, *samples: int) -> Tensor:
    found = gradients()
    for sample in samples:
        found[sample, 1, 4] = value
    return found


def with_part(name: str, value: float, sample: int) -> GradientFactors:
    factors = random_factors(torch.Generator().manual_seed(1), n=N)
    getattr(factors, name)[sample, 0] = value
    return factors


def lopsided() -> Tensor:
    matrix = fisher()
    matrix[3, 5] += 0.5
    return matrix


# What is changed in a good call, the error, and what its message must hold.
BAD: dict[str, tuple[Callable[[], Change], type[Exception], str]] = {
    "no gradients": (
        lambda: {"gradients": None},
        TypeError,
        r"gradients must be a Tensor of shape \(N, r, k\).*got NoneType",
    ),
    "a list of gradients": (
        lambda: {"gradients": gradients().tolist()},
        TypeError,
        r"gradients must be a Tensor.*got list",
    ),
    "flat gradients": (
        lambda: {"gradients": gradients().flatten(1)},
        ValueError,
        r"gradients must have shape \(N, r, k\); got \(12, 51\)",
    ),
    "gradients of four dimensions": (
        lambda: {"gradients": gradients()[None]},
        ValueError,
        r"gradients must have shape \(N, r, k\); got \(1, 12, 3, 17\)",
    ),
    "integer gradients": (
        lambda: {"gradients": gradients().long()},
        TypeError,
        "gradients must be float16, bfloat16, float32 or float64; got torch.int64",
    ),
    "boolean gradients": (lambda: {"gradients": gradients() > 0}, TypeError, "got torch.bool"),
    "complex gradients": (
        lambda: {"gradients": gradients().to(torch.complex64)},
        TypeError,
        "gradients must be float16.*got torch.complex64",
    ),
    "eight-bit gradients": (
        lambda: {"gradients": gradients().to(torch.float8_e4m3fn)},
        TypeError,
        "got torch.float8_e4m3fn",
    ),
    "an empty pool": (lambda: {"gradients": gradients()[:0]}, ValueError, "no samples"),
    "empty factors": (
        lambda: {"gradients": random_factors(torch.Generator(), n=N)[:0]},
        ValueError,
        "no samples",
    ),
    "no rows": (lambda: {"gradients": gradients()[:, :0]}, ValueError, r"got shape \(12, 0, 17\)"),
    "no columns": (
        lambda: {"gradients": gradients()[..., :0], "fisher": None},
        ValueError,
        r"got shape \(12, 3, 0\)",
    ),
    "a NaN": (
        lambda: {"gradients": poisoned(float("nan"), 7)},
        ValueError,
        "must be finite; 1 of 12 samples.*first at index 7",
    ),
    "infinities": (
        lambda: {"gradients": poisoned(float("inf"), 9, 2, 4)},
        ValueError,
        "must be finite; 3 of 12 samples.*first at index 2",
    ),
    "both infinities": (
        lambda: {"gradients": poisoned(float("inf"), 5) + poisoned(float("-inf"), 5)},
        ValueError,
        "1 of 12 samples.*first at index 5",
    ),
    "half-precision infinities": (
        lambda: {"gradients": poisoned(1e6, 3).half()},
        ValueError,
        "1 of 12 samples.*first at index 3",
    ),
    "a NaN in coupling": (
        lambda: {"gradients": with_part("coupling", float("nan"), 6)},
        ValueError,
        "1 of 12 samples.*first at index 6",
    ),
    "infinity in hidden": (
        lambda: {"gradients": with_part("hidden", float("inf"), 11)},
        ValueError,
        "1 of 12 samples.*first at index 11",
    ),
    "none to select": (lambda: {"n_select": 0}, ValueError, "n_select must be at least 1; got 0"),
    "fewer than none": (lambda: {"n_select": -3}, ValueError, "n_select.*at least 1; got -3"),
    "more than the pool": (
        lambda: {"n_select": 13},
        ValueError,
        "n_select must be at most the pool's 12 samples; got 13",
    ),
    "a fraction to select": (lambda: {"n_select": 2.5}, TypeError, "n_select.*integer; got 2.5"),
    "a whole float to select": (lambda: {"n_select": 3.0}, TypeError, "n_select.*integer; got 3.0"),
    "a word to select": (lambda: {"n_select": "3"}, TypeError, "n_select.*integer; got '3'"),
    "nothing to select": (lambda: {"n_select": None}, TypeError, "n_select.*integer; got None"),
    "truth to select": (lambda: {"n_select": True}, TypeError, "n_select.*integer; got True"),
    "numpy float to select": (lambda: {"n_select": np.float64(3)}, TypeError, "n_select.*integer"),
    "lamb of zero": (lambda: {"lamb": 0.0}, ValueError, "lamb must be.*above 0; got 0"),
    "negative lamb": (lambda: {"lamb": -1}, ValueError, "lamb must be.*above 0; got -1"),
    "lamb NaN": (lambda: {"lamb": float("nan")}, ValueError, "lamb must be.*got nan"),
    "lamb infinite": (lambda: {"lamb": float("inf")}, ValueError, "lamb must be.*got inf"),
    "a word for lamb": (lambda: {"lamb": "1"}, TypeError, "lamb must be a number above 0; got '1'"),
    "no lamb": (lambda: {"lamb": None}, TypeError, "lamb must be a number above 0; got None"),
    "complex lamb": (lambda: {"lamb": 1j}, TypeError, "lamb must be a number above 0; got 1j"),
    "fisher of another size": (
        lambda: {"fisher": torch.eye(16)},
        ValueError,
        r"fisher must have shape \(17, 17\).*got \(16, 16\)",
    ),
    "fisher not square": (
        lambda: {"fisher": torch.ones(17, 16)},
        ValueError,
        r"fisher must have shape \(17, 17\).*got \(17, 16\)",
    ),
    "a stack of fishers": (
        lambda: {"fisher": fisher()[None]},
        ValueError,
        r"fisher must have shape \(17, 17\).*got \(1, 17, 17\)",
    ),
    "fisher not symmetric": (
        lambda: {"fisher": lopsided()},
        ValueError,
        "fisher must be symmetric",
    ),
    "fisher barely not symmetric": (
        lambda: {"fisher": lopsided().float() + fisher().float()},
        ValueError,
        "fisher must be symmetric",
    ),
    "fisher NaN": (
        lambda: {"fisher": torch.full((K, K), float("nan"))},
        ValueError,
        "fisher must be finite",
    ),
    "fisher with one infinity": (
        lambda: {
            "fisher": fisher().index_put((torch.tensor(3),) * 2, torch.tensor(torch.inf).double())
        },
        ValueError,
        "fisher must be finite",
    ),
    "integer fisher": (
        lambda: {"fisher": torch.eye(K, dtype=torch.int64)},
        TypeError,
        "fisher must have a floating dtype; got torch.int64",
    ),
    "complex fisher": (
        lambda: {"fisher": fisher().to(torch.complex128)},
        TypeError,
        "fisher must have a floating dtype; got torch.complex128",
    ),
    "a list as fisher": (
        lambda: {"fisher": fisher().tolist()},
        TypeError,
        "fisher must be a Tensor.*got list",
    ),
    "fisher on another device": (
        lambda: {"fisher": fisher().to("meta")},
        ValueError,
        "fisher is on meta; expected the gradients' cpu",
    ),
    "labeled_fisher of another size": (
        lambda: {"labeled_fisher": torch.eye(16)},
        ValueError,
        r"labeled_fisher must have shape \(17, 17\).*got \(16, 16\)",
    ),
    "labeled_fisher not symmetric": (
        lambda: {"labeled_fisher": lopsided()},
        ValueError,
        "labeled_fisher must be symmetric",
    ),
    "labeled_fisher on another device": (
        lambda: {"labeled_fisher": fisher().to("meta")},
        ValueError,
        "labeled_fisher is on meta; expected the gradients' cpu",
    ),
    "labeled_fisher of integers": (
        lambda: {"labeled_fisher": torch.eye(K, dtype=torch.int32)},
        TypeError,
        "labeled_fisher must have a floating dtype; got torch.int32",
    ),
    "labeled samples that are none": (
        lambda: {"n_labeled": 0},
        ValueError,
        "labeled_fisher was given with n_labeled = 0",
    ),
    "labeled samples without a matrix": (
        lambda: {"labeled_fisher": None},
        ValueError,
        r"n_labeled = 4 needs labeled_fisher, a \(17, 17\) matrix",
    ),
    "M not positive": (
        lambda: {"labeled_fisher": -100 * fisher()},
        ValueError,
        "must be positive definite",
    ),
    "negative n_labeled": (
        lambda: {"n_labeled": -1},
        ValueError,
        "n_labeled must be at least 0; got -1",
    ),
    "n_labeled not whole": (lambda: {"n_labeled": 1.5}, TypeError, "n_labeled.*integer; got 1.5"),
    "negative backward_steps": (
        lambda: {"backward_steps": -1},
        ValueError,
        "backward_steps must be at least 0; got -1",
    ),
    "backward_steps not whole": (
        lambda: {"backward_steps": 0.5},
        TypeError,
        "backward_steps.*integer; got 0.5",
    ),
    "chunk_size of zero": (lambda: {"chunk_size": 0}, ValueError, "chunk_size.*at least 1; got 0"),
    "chunk_size not whole": (
        lambda: {"chunk_size": 1.5},
        TypeError,
        "chunk_size.*integer; got 1.5",
    ),
}
BAD_BATCH = {
    "block_size of zero": (lambda: {"block_size": 0}, ValueError, "block_size.*at least 1; got 0"),
    "block_size not whole": (lambda: {"block_size": "8"}, TypeError, "block_size.*got '8'"),
    "another precision": (
        lambda: {"precision": "float16"},
        ValueError,
        "precision must be one of mixed, float64; got 'float16'",
    ),
}


def arguments(change: Change) -> Change:
    good = {"gradients": gradients(), "n_select": 4, "fisher": fisher(), "labeled_fisher": fisher()}
    return {**good, "n_labeled": 4, **change}


def frozen(value: Any) -> Any:
    """What to compare with later: tensors as their bytes, so that NaN equals itself."""
    if isinstance(value, GradientFactors):
        return [
            frozen(getattr(value, part)) for part in ("middle", "coupling", "hidden", "head_index")
        ]
    if isinstance(value, Tensor):
        if value.is_meta:
            return (value.dtype, value.shape)
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return (value.dtype, value.shape, value.stride(), value.requires_grad, raw)
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def assert_unchanged(now: Change, before: dict[str, Any]) -> None:
    assert {name: frozen(value) for name, value in now.items()} == before


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("function", [fast_select, select_batch])
def test_bad_input(
    function: Callable[..., Any],
    make: Callable[[], Change],
    error: type[Exception],
    message: str,
) -> None:
    given = arguments(make())
    before = {name: frozen(value) for name, value in given.items()}
    with pytest.raises(error, match=message):
        function(**given)
    assert_unchanged(given, before)


@pytest.mark.parametrize(("make", "error", "message"), BAD_BATCH.values(), ids=BAD_BATCH.keys())
def test_bad_options_of_select_batch(
    make: Callable[[], Change], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        select_batch(**arguments(make()))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_inputs_are_not_changed(
    head: str, dtype: torch.dtype, backward_steps: int, generator: torch.Generator
) -> None:
    factors = random_factors(generator, head=head, dtype=dtype)
    k = factors.n_columns
    given = {
        "gradients": factors,
        "n_select": 6,
        "fisher": random_fisher(generator, k),
        "labeled_fisher": random_fisher(generator, k),
    }
    before = {name: frozen(value) for name, value in given.items()}
    select_batch(**given, n_labeled=3, backward_steps=backward_steps)
    select_batch(**given | {"gradients": factors.dense()}, n_labeled=3)
    assert_unchanged(given, before)


def test_progress_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        fast_select(**arguments({"progress": True}))
    assert len(fast_select(**arguments({}))) == 4


def test_a_pool_whose_state_no_memory_holds_is_refused_at_once() -> None:
    pool = torch.ones(1, 1, 1).expand(2**40, 1, 1)
    with pytest.raises(ValueError, match=f"gradients hold {2**40} samples of 1 rows"):
        select_batch(pool, 2)
