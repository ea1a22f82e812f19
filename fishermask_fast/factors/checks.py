"""What the parts of per-sample factors must be, and what they are made from."""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.checks import FLOATING, shown, tensor_kind
from fishermask_fast.ops import FactorTensors

_FINITE_CHUNK = 2**24
_SUM_TOLERANCE = 1e-2  # what float16 leaves of a thousand classes


def check_part(name: str, part: object, ndim: int) -> None:
    shape = "(N, d)" if ndim == 2 else "(N, r, k)"
    if not isinstance(part, Tensor):
        raise TypeError(f"{name} must be a Tensor of shape {shape}; got {type(part).__name__}")
    if part.layout != torch.strided or part.is_nested or (part.is_meta and name == "gradients"):
        raise TypeError(f"{name} must be a dense tensor of numbers; got {tensor_kind(part)}")
    if part.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64; got {part.dtype}")
    if part.ndim != ndim:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(part.shape)}")


def check_head_index(index: object, size: int, device: torch.device) -> None:
    if not isinstance(index, Tensor):
        raise TypeError(f"head_index must be a 1-d int64 tensor; got {type(index).__name__}")
    if index.is_nested:
        raise TypeError(f"head_index must be a 1-d int64 tensor; got {tensor_kind(index)}")
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(
            f"head_index must be a 1-d int64 tensor; got {index.dtype} {tuple(index.shape)}"
        )
    if index.device != device:
        raise ValueError(f"head_index is on {index.device}; expected {device}")
    if index.numel() and (index[0] < 0 or index[-1] >= size or (index.diff() <= 0).any()):
        raise ValueError(f"head_index must be strictly increasing within 0..{size - 1}")


def check_changed(part: Tensor | None, found: object) -> None:
    """Raises unless what takes the place of a part has its shape.

    Raises:
        TypeError, ValueError: says what it is.
    """
    if part is None:
        return
    check_part("what change gives", found, part.ndim)
    shape = tuple(found.shape)  # type: ignore[attr-defined]
    if shape != tuple(part.shape):
        raise ValueError(f"change must keep the shape {tuple(part.shape)}; it gave {shape}")


def check_same_index(index: object, before: Tensor | None) -> None:
    """Raises unless one head_index can take the place of another.

    Raises:
        TypeError, ValueError: says why not.
    """
    if before is None:
        raise ValueError("head_index must be None, as these factors have none")
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.is_nested:
        raise TypeError(f"head_index must be a 1-d int64 tensor; got {shown(index)}")
    if index.is_meta or before.is_meta:
        return
    # Without waiting for a GPU, on which it lies as it was put there.
    if index.shape != before.shape or (
        index.device == before.device == torch.device("cpu") and not torch.equal(index, before)
    ):
        raise ValueError("head_index must equal that of these factors")


def check_distributions(p: Tensor) -> None:
    """Raise where a sample's probabilities, a row of (N, C), are no distribution over C classes.

    Raises:
        ValueError: says of how many samples, and of which first.
    """
    sums = p.sum(1, dtype=torch.float64)
    # NaN is neither near nor far.
    bad = ~((sums - 1).abs() <= _SUM_TOLERANCE) | (p < 0).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            "probabilities must be 0 or more and sum to 1 for each sample (take the softmax of "
            'logits; where each label is for itself, likelihood "bernoulli"); '
            f"{int(bad.sum())} of {len(p)} samples do not, the first at index {first}: "
            f"smallest {float(p[first].min()):.3g}, sum {float(sums[first]):.3g}"
        )


def check_chances(p: Tensor) -> None:
    """Raise where a probability, of a label for itself, is none.

    Raises:
        ValueError: says in how many of the samples (N, C), and in which first.
    """
    bad = ~((p >= 0) & (p <= 1)).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            "probabilities must lie in [0, 1] (take the sigmoid of logits); those of "
            f"{int(bad.sum())} of {len(p)} samples do not, the first at index {first}: "
            f"{float(p[first].min()):.3g} to {float(p[first].max()):.3g}"
        )


def check_finite(factors: FactorTensors, start: int = 0) -> None:
    """Raise where a gradient is NaN or infinite; `start`: the index of the first sample.

    Raises:
        ValueError: says in how many samples, and in which first.
    """
    bad: Tensor | None = None
    for part in (factors.middle, factors.coupling, factors.hidden):
        if part is None or part.numel() == 0 or bool(part.sum(dtype=torch.float64).isfinite()):
            continue
        step = max(1, _FINITE_CHUNK // max(part[0].numel(), 1))
        here = torch.cat([~chunk.isfinite().flatten(1).all(1) for chunk in part.split(step)])
        bad = here if bad is None else bad | here
    if bad is not None and bool(bad.any()):
        raise ValueError(
            f"gradients must be finite; {int(bad.sum())} of {len(factors.middle)} samples hold NaN "
            f"or Inf, the first at index {start + int(bad.nonzero()[0])}"
        )


def check_parts(parts: object, kind: type) -> None:
    """Raise unless there are some, all of a kind.

    Raises:
        TypeError: no list or tuple, or something else in it.
        ValueError: none.
    """
    name = kind.__name__
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"parts must be a list or tuple of {name}; got {type(parts).__name__}")
    for part in parts:
        if not isinstance(part, kind):
            raise TypeError(f"parts must be {name}; one is {type(part).__name__}")
    if not parts:
        raise ValueError(f"parts must be at least one {name}; got none")


def check_form(matrix: Tensor, k: int, device: torch.device) -> None:
    """Raise unless V Q V^T is defined for Q = matrix and k columns on a device.

    Raises:
        TypeError: not float64.
        ValueError: of another shape, or elsewhere.
    """
    if matrix.dtype != torch.float64:
        raise TypeError(f"matrices must be float64; got {matrix.dtype}")
    if tuple(matrix.shape) != (k, k):
        raise ValueError(f"matrices must have shape {(k, k)}; got {tuple(matrix.shape)}")
    if matrix.device != device:
        raise ValueError(f"a matrix is on {matrix.device}; expected the factors' {device}")


def check_beside(name: str, part: Tensor, middle: Tensor) -> None:
    """Raise where a part has another dtype, device or number of samples than middle.

    Raises:
        TypeError, ValueError: names both.
    """
    if part.dtype != middle.dtype:
        raise TypeError(f"{name} is {part.dtype}; expected middle's {middle.dtype}")
    if part.device != middle.device:
        raise ValueError(f"{name} is on {part.device}; expected middle's {middle.device}")
    if len(part) != len(middle):
        raise ValueError(f"{name} holds {len(part)} samples; expected middle's {len(middle)}")
