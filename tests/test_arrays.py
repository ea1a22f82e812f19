"""Arrays of other libraries in, and indices of the same library out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pools import picks, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import fast_select, select_batch

xp = pytest.importorskip("array_api_strict")


class OnlyDlpack:
    """Speaks DLPack and nothing else."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


class OnlyArray:
    """Speaks `__array__` and nothing else."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.tensor.numpy()


class Refusing(OnlyArray):
    """Has `__dlpack__`, which does not work, and `__array__`."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("not today")

    def __dlpack_device__(self) -> Any:
        return (1, 0)


@pytest.fixture
def pool(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    factors = random_factors(generator, n=50, head="none")
    return factors.dense(), random_fisher(generator, factors.n_columns)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda t: t.numpy(), np.ndarray),
        (OnlyDlpack, np.ndarray),
        (OnlyArray, np.ndarray),
        (Refusing, np.ndarray),
        (lambda t: xp.asarray(t.numpy()), type(xp.zeros(1))),
        (lambda t: t, list),
    ],
    ids=["numpy", "dlpack", "array", "refusing dlpack", "array_api_strict", "torch"],
)
def test_indices_are_of_the_kind_that_came(make: Any, kind: type, pool: Any) -> None:
    expected = fast_select(pool[0], 7, pool[1], pool[1], n_labeled=3)
    fisher = make(pool[1])
    found = fast_select(make(pool[0]), 7, fisher, fisher, n_labeled=3)
    assert type(found) is kind
    assert [int(index) for index in found] == expected
    if kind is not list:
        assert "int64" in str(found.dtype)
    selection = select_batch(make(pool[0]), 7, fisher, fisher, n_labeled=3)
    assert picks(selection) == expected


def test_mixed_kinds(pool: Any) -> None:
    expected = fast_select(*pool[:1], 7, pool[1])
    assert fast_select(pool[0], 7, pool[1].numpy()) == expected
    assert fast_select(pool[0].numpy(), 7, pool[1]).tolist() == expected


LAYOUTS: dict[str, Any] = {
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every other": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "Fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f8"),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), offset=1).reshape(x.shape),
    "a field": lambda x: np.rec.fromarrays([x, x.astype("f4")], names="a,b")["a"],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(layout: Any, pool: Any) -> None:
    array = layout(pool[0].numpy())
    before = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fast_select(array, 7, pool[1].numpy())
    assert found.tolist() == fast_select(pool[0], 7, pool[1])
    assert np.array_equal(array, before) and array.strides == layout(pool[0].numpy()).strides


def test_memory_that_must_not_be_written(pool: Any, tmp_path: Any) -> None:
    path = tmp_path / "gradients.npy"
    np.save(path, pool[0].numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fast_select(np.load(path, mmap_mode="r"), 7, pool[1])
    assert found.tolist() == fast_select(pool[0], 7, pool[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((4, 2, 3), dtype=int), "gradients must be float16.*got torch.int64"),
        (np.ones((4, 2, 3), dtype=complex), "gradients must be float16.*got torch.complex128"),
        (np.full((4, 2, 3), "x"), "gradients must hold floating-point numbers; got <U1"),
        (np.full((4, 2, 3), None), "gradients must hold floating-point numbers; got object"),
        (np.ones((4, 2, 3), dtype=np.longdouble), "floating-point numbers; got (float128|longd)"),
        ([[[1.0]]], "gradients must be a Tensor of shape .* got list"),
        (np.ndarray, "gradients must be a Tensor of shape .* got type"),
    ],
    ids=["int", "complex", "str", "object", "longdouble", "list", "class"],
)
def test_what_holds_no_gradients(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fast_select(given, 1)


def test_masked_values_are_refused() -> None:
    values = np.ones((4, 2, 3))
    assert fast_select(np.ma.masked_array(values), 1).tolist() == [0]
    with pytest.raises(ValueError, match="a value everywhere; 6 of 24 are masked"):
        fast_select(np.ma.masked_array(values, values.cumsum(0) > 3), 1)


def test_dlpack_that_fails() -> None:
    class Broken(OnlyDlpack):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise BufferError("not today")

    with pytest.raises(TypeError, match="through __dlpack__; Broken did not: not today"):
        fast_select(Broken(torch.ones(4, 2, 3)), 1)


def test_flat_array_names_its_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, r, k\); got \(4, 6\)"):
        fast_select(np.ones((4, 6)), 1)


@pytest.mark.parametrize("function", [fast_select, select_batch])
def test_warning_points_at_the_call(function: Any, pool: Any) -> None:
    with pytest.warns(UserWarning, match="all of them are picked first") as caught:
        function(pool[0], 40, pool[1], backward_steps=1)
    assert [warning.filename for warning in caught] == [__file__]
