"""Factors of a linear head from what it reads and what it says, without any network.

For logits z = W h of an embedding h, p = softmax(z) and the rows L_x^T of rows.py with
L L^T = diag(p) - p p^T, the gradients of the head's entries (c, j) in the mask are

    V_x = (L_x^T kron h_x)[mask],     f_cj = (1/N) sum_x p_c (1 - p_c) h_j^2

f being the Fisher diagonal that the mask keeps the largest entries of (method: FISH mask). A frozen
foundation model or a vector store is all it takes; N x C x d numbers are never held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.arrays import Array, as_tensor
from fishermask_fast.checks import check_integer, tensor_kind
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.likelihoods import check_rows, make_rows
from fishermask_fast.memory import check_memory

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Numbers of a chunk of rows at work: few enough to stay in the caches.
_CHUNK_NUMBERS = 2**17
# How far a row of probabilities may be from 1: what float16 leaves of a thousand classes.
_SUM_TOLERANCE = 1e-2


@torch.no_grad()
def factors_from_embeddings(
    embeddings: Tensor | Array,
    probabilities: Tensor | Array,
    *,
    mask: int | Tensor | Array | None = None,
    rank: int | None = None,
    bias: bool = False,
    weighting: str = "fisher",
) -> GradientFactors:
    """The factor V_x of a linear softmax head for every sample.

    Args:
        embeddings: (N, d) inputs of the head; a tensor, or an array that speaks `__dlpack__` or
            `__array__`; float16, bfloat16, float32 or float64.
        probabilities: (N, C) class probabilities of the same samples, likewise.
        mask: None: all C * d entries of the head (C * (d + 1) with a bias); an int k: the k
            entries with the largest Fisher diagonal over these samples, ties by lowest position;
            positions c * d + j, as `head_index` of factors made before: those. Labeled samples
            need the pool's own: `mask=pool.head_index`.
        rank: rows r a sample; None: C - 1, which is exact; fewer: the largest eigenvectors of
            diag(p) - p p^T, an approximation.
        bias: whether the head has a bias; an input that is always 1 is added as the last.
        weighting: "fisher", or "none" for the rows grad log p_c that FisherMask's code has.

    Returns:
        GradientFactors with nothing outside the head, in the embeddings' dtype (float32 for
        float16 and bfloat16), on their device. Embeddings of float32 or float64 are kept as they
        are, not copied, unless a bias is added: do not change them while the factors are in use.

    Raises:
        TypeError: an argument of another type or dtype than stated.
        ValueError: shapes that do not fit, NaN or Inf, rows that are no probabilities, a mask or
            a rank out of range, or matrices M and F of the masked entries that no memory holds.
    """
    check_rows(weighting, rank)
    rank = None if rank is None else int(rank)
    if not isinstance(bias, bool):
        raise TypeError(f"bias must be a bool; got {bias!r}")
    h = _check_array("embeddings", "(N, d)", as_tensor("embeddings", embeddings))
    p = _check_array("probabilities", "(N, C)", as_tensor("probabilities", probabilities))
    _check_fit(h, p)
    (n, width), n_classes = h.shape, p.shape[1]
    if rank is not None and rank > n_classes:
        raise ValueError(f"rank must be at most the number of classes {n_classes}; got {rank}")
    size = n_classes * (width + bias)
    wanted = _check_mask(mask, size, h.device)
    _check_size(wanted, size, h.device)
    _check_probabilities(p)
    hidden = h.detach().to(torch.float64 if h.dtype == torch.float64 else torch.float32)
    if bias:
        hidden = torch.cat([hidden, hidden.new_ones(n, 1)], dim=1)
    if isinstance(wanted, int):
        wanted = _largest(hidden, p, wanted) if wanted < size else None
    return GradientFactors(
        hidden.new_empty(n, _n_rows(n_classes, weighting, rank), 0),
        _coupling(p, weighting, rank, hidden.dtype),
        hidden,
        wanted,
    )


def _coupling(p: Tensor, weighting: str, rank: int | None, dtype: torch.dtype) -> Tensor:
    """The rows L_x^T of every sample, (N, r, C)."""
    n, n_classes = p.shape
    r = _n_rows(n_classes, weighting, rank)
    coupling = torch.empty(n, r, n_classes, dtype=dtype, device=p.device)
    size = max(1, _CHUNK_NUMBERS // (r * n_classes))
    for rows, chunk in zip(coupling.split(size), p.split(size), strict=True):
        rows.copy_(make_rows(chunk.double().log(), weighting, rank))
    return coupling


def _n_rows(n_classes: int, weighting: str, rank: int | None) -> int:
    if rank is not None:
        return rank
    return n_classes - 1 if weighting == "fisher" else n_classes


def _largest(hidden: Tensor, p: Tensor, k: int) -> Tensor:
    """Sorted positions of the k largest entries of the head's Fisher diagonal."""
    (n, d), n_classes = hidden.shape, p.shape[1]
    diagonal = torch.zeros(n_classes, d, dtype=torch.float64, device=hidden.device)
    size = max(1, _CHUNK_NUMBERS // max(d, n_classes))
    for h, q in zip(hidden.split(size), p.split(size), strict=True):
        q = q.double()
        diagonal.addmm_((q * (1 - q)).T, h.double().square(), alpha=1 / n)
    order = diagonal.flatten().argsort(descending=True, stable=True)
    return order[:k].sort().values


def _check_array(name: str, shape: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a Tensor or an array of shape {shape}; got {type(value).__name__}"
        )
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        raise TypeError(f"{name} must be a dense tensor of numbers; got {tensor_kind(value)}")
    if value.dtype not in _FLOATING:
        raise TypeError(f"{name} must have a floating dtype; got {value.dtype}")
    if value.ndim != 2:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(value.shape)}")
    if value.numel() and not bool(value.sum(dtype=torch.float64).isfinite()):
        bad = (~value.isfinite()).any(1).nonzero()
        if len(bad):
            raise ValueError(
                f"{name} must be finite; {len(bad)} of {len(value)} samples hold NaN or Inf, the "
                f"first at index {int(bad[0])}"
            )
    return value


def _check_fit(h: Tensor, p: Tensor) -> None:
    if len(h) != len(p):
        raise ValueError(
            f"embeddings and probabilities must be of the same samples; got {len(h)} and {len(p)}"
        )
    if len(h) == 0:
        raise ValueError("embeddings hold no samples; expected at least one")
    if h.shape[1] == 0:
        raise ValueError("embeddings must have at least one dimension; got shape (N, 0)")
    if p.shape[1] < 2:
        raise ValueError(f"probabilities must be of two classes or more; got {p.shape[1]}")
    if h.device != p.device:
        raise ValueError(f"probabilities are on {p.device}; expected the embeddings' {h.device}")


def _check_probabilities(p: Tensor) -> None:
    sums = p.sum(1, dtype=torch.float64)
    bad = ((sums - 1).abs() > _SUM_TOLERANCE) | (p < 0).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            "probabilities must be 0 or more and sum to 1 for each sample (take the softmax of "
            f"logits); {int(bad.sum())} of {len(p)} samples do not, the first at index {first}: "
            f"smallest {float(p[first].min()):.3g}, sum {float(sums[first]):.3g}"
        )


def _check_mask(mask: object, size: int, device: torch.device) -> int | Tensor | None:
    mask = as_tensor("mask", mask)
    if mask is None:
        return None
    if isinstance(mask, Iterable) and not isinstance(mask, Tensor):
        raise TypeError(
            "mask must be None, an int, or positions as a 1-d int64 tensor or array; got "
            f"{type(mask).__name__}"
        )
    if not isinstance(mask, Tensor) or mask.ndim == 0:
        k = check_integer("mask", mask, 1)
        if k > size:
            raise ValueError(f"mask must keep at most the head's {size} entries; got {k}")
        return k
    if mask.dtype != torch.int64 or mask.ndim != 1:
        raise TypeError(
            "mask must be None, an int, or positions as a 1-d int64 tensor; "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if not mask.numel():
        raise ValueError("mask must name at least one position; got none")
    if mask[0] < 0 or mask[-1] >= size or (mask.diff() <= 0).any():
        raise ValueError(
            f"mask must be strictly increasing positions within 0..{size - 1}; got "
            f"{mask.numel()} from {int(mask.min())} to {int(mask.max())}"
        )
    return mask.to(device)


def _check_size(wanted: int | Tensor | None, size: int, device: torch.device) -> None:
    if wanted is None:
        k, remedy = size, "Give mask=k to keep the k entries with the largest Fisher diagonal."
    else:
        k = wanted if isinstance(wanted, int) else wanted.numel()
        remedy = "Give a smaller mask."
    check_memory(k, device, remedy)
