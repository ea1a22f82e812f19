"""Arrays of other libraries as tensors, and indices as arrays of the same library.

Whatever speaks `__dlpack__` or `__array__` (numpy, jax, cupy, pandas ...) is read in place where
its memory allows; nothing of it is ever changed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack


class SupportsArray(Protocol):
    """Gives its data as a numpy array."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


class SupportsDlpack(Protocol):
    """Gives its data through DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


Array = SupportsArray | SupportsDlpack


def as_tensor(name: str, value: object) -> Any:
    """An array as a tensor; what is no array is handed back for its reader to judge.

    Args:
        name: what to call it in messages.
        value: anything.

    Raises:
        TypeError: an array whose dtype has no counterpart in torch, or that does not give its data;
            a tensor without numbers of its own.
        ValueError: an array that hides values of its own behind a mask.
    """
    if isinstance(value, Tensor):
        if value.is_nested or value.is_quantized:
            raise no_numbers(name, "nested" if value.is_nested else "quantized")
        return value
    if isinstance(value, type):
        return value
    if isinstance(value, np.ndarray):
        return _from_numpy(name, value)
    if hasattr(value, "__dlpack__"):
        try:
            return from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            if not hasattr(value, "__array__"):
                raise TypeError(
                    f"{name} must give its data through __dlpack__; {type(value).__name__} did "
                    f"not: {error}"
                ) from error
    if hasattr(value, "__array__"):
        return _from_numpy(name, np.asarray(value))
    return value


def no_numbers(name: str, kind: str) -> TypeError:
    """What to raise of a tensor that holds no numbers of its own."""
    return TypeError(f"{name} must be a dense tensor of numbers; got a {kind} tensor")


def sample_numbers(
    name: str, tensor: object, n: int, expected: str, *, above_zero: bool, hint: str = ""
) -> Tensor:
    """A real number for each of n samples, (n,) float64 where the tensor lies.

    Args:
        name: what to call them in messages.
        tensor: what `as_tensor` gives.
        n: how many are expected.
        expected: what they must be, in words, for what is no such tensor.
        above_zero: whether 0 is refused.
        hint: what to do instead of that, in words.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: of another shape, not finite or too small.
    """
    if not isinstance(tensor, Tensor) or tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be {expected}; got {type(tensor).__name__}")
    if tensor.is_meta:
        raise no_numbers(name, "meta")
    if tuple(tensor.shape) != (n,):
        raise ValueError(f"{name} must have shape ({n},), one a sample; got {tuple(tensor.shape)}")
    numbers = tensor.detach().double()
    wrong = ~(numbers.isfinite() & ((numbers > 0) if above_zero else (numbers >= 0)))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        least = f"above 0{hint}" if above_zero else "0 or more"
        raise ValueError(
            f"{name} must be finite and {least}; got {float(numbers[at]):g} at index {at}"
        )
    return numbers


def digest(tensors: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """Of names, dtypes, shapes and numbers of tensors, in their order, and of a text."""
    found = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def like(source: object, indices: Tensor) -> Any:
    """Indices as what `source` is an array of: a list of int for tensors and factors.

    An array gets indices of its own library where that has an array namespace, numpy's otherwise.
    """
    if isinstance(source, Tensor) or not (
        hasattr(source, "__dlpack__") or hasattr(source, "__array__")
    ):
        return indices.tolist()
    array = indices.numpy()
    if not hasattr(source, "__array_namespace__"):
        return array
    return source.__array_namespace__().asarray(array)


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    n_masked = int(np.count_nonzero(np.ma.getmask(array)))
    if n_masked:
        raise ValueError(
            f"{name} must have a value everywhere; {n_masked} of {array.size} are masked"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides if array.itemsize):
        array = array.copy()
    try:
        with warnings.catch_warnings():
            # Nothing writes to the tensor, so that memory that must not be written can be shared.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"{name} must hold floating-point numbers; got {array.dtype}") from None
