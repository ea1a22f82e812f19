"""Factors of a linear head from what it reads and what it says, without any network.

For outputs z = W h of an embedding h and the rows R_x of their likelihood, which for the softmax
p of z has R^T R = diag(p) - p p^T, the gradients of the head's entries (c, j) in the mask are

    V_x = (R_x kron h_x)[mask],     f_cj = (1/N) sum_x (R_x^T R_x)_cc h_j^2

f being the Fisher diagonal that the mask keeps the largest entries of (method: FISH mask). A frozen
foundation model or a vector store is all it takes; N x C x d numbers are never held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from fishermask_fast.arrays import Array, as_tensor
from fishermask_fast.checks import FLOATING, check_integer, tensor_kind
from fishermask_fast.factors.checks import check_chances, check_distributions
from fishermask_fast.factors.embedding_files import EmbeddingFactors, mapped_parts
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Likelihood,
    LikelihoodLike,
    check_rows,
    likelihood_with,
)
from fishermask_fast.memory import check_memory

# Numbers of a chunk of rows at work: few enough to stay in the caches.
_CHUNK_NUMBERS = 2**17

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@overload
def factors_from_embeddings(
    embeddings: Tensor | Array,
    probabilities: Tensor | Array | None = ...,
    *,
    likelihood: LikelihoodLike = ...,
    mask: int | Tensor | Array | None = ...,
    rank: int | None = ...,
    bias: bool = ...,
    weighting: str = ...,
    rows: str = ...,
) -> GradientFactors: ...
@overload
def factors_from_embeddings(
    embeddings: Paths,
    probabilities: Tensor | Array | None = ...,
    *,
    likelihood: LikelihoodLike = ...,
    mask: int | Tensor | Array | None = ...,
    rank: int | None = ...,
    bias: bool = ...,
    weighting: str = ...,
    rows: str = ...,
) -> EmbeddingFactors: ...
@torch.no_grad()
def factors_from_embeddings(
    embeddings: Tensor | Array | Paths,
    probabilities: Tensor | Array | None = None,
    *,
    likelihood: LikelihoodLike = "categorical",
    mask: int | Tensor | Array | None = None,
    rank: int | None = None,
    bias: bool = False,
    weighting: str = "fisher",
    rows: str = "all",
) -> GradientFactors | EmbeddingFactors:
    """The factor V_x of a linear head for every sample.

    Args:
        embeddings: (N, d) inputs of the head; a tensor, or an array that speaks `__dlpack__` or
            `__array__`; float16, bfloat16, float32 or float64. Or the path of a .npy or safetensors
            file that holds them, or several, one after the other: these are mapped into memory
            and stay where they are.
        probabilities: What the head says of the same samples, likewise. For "categorical" class
            probabilities (N, C); for "bernoulli" (N, C), or (N,), of each label for itself; for
            "gaussian" None, as nothing depends on predictions and any number of targets has the
            picks of one; for a function the outputs W h themselves, (N, outputs) or (N,).
        likelihood: as for `masked_gradients`. With "gaussian" no label and no model is needed:
            a batch that lowers tr(M^-1 F) is then V-optimal design (of I-optimal design the form
            for a finite pool), the one that least-squares regression on the embeddings predicts
            the pool best after.
        mask: None: all C * d entries of the head (C * (d + 1) with a bias); an int k: the k
            entries with the largest Fisher diagonal over these samples, ties by lowest position;
            positions c * d + j, as `head_index` of factors made before: those. Labeled samples
            need the pool's own: `mask=pool.head_index`.
        rank: rows r a sample, as for `masked_gradients`; None is exact.
        bias: whether the head has a bias; an input that is always 1 is added as the last.
        weighting: "fisher", or "none" for the rows grad log p_c that FisherMask's code has, as for
            `masked_gradients`.
        rows: "all"; or "top_class" for one row a sample, an approximation: whether the likeliest
            class is right, sqrt(q (1 - q)) h_x with q its probability, so that k = d, not C d;
            `probabilities` may then be (N,), the q alone.

    Returns:
        EmbeddingFactors for files, which select_batch and fast_select take likewise. Otherwise
        GradientFactors with nothing outside the head, in the embeddings' dtype (float32 for
        float16 and bfloat16), on their device. Embeddings of float32 or float64 are kept as they
        are, not copied, unless a bias is added: do not change them while the factors are in use.

    Raises:
        TypeError: an argument of another type or dtype than stated.
        ValueError: shapes that do not fit, NaN or Inf, rows that are no probabilities, a mask or
            a rank out of range, or matrices M and F of the masked entries that no memory holds.

    Example:
        >>> import torch
        >>> from fishermask_fast import factors_from_embeddings, fast_select
        >>> embeddings, probabilities = torch.randn(50, 6), torch.randn(50, 4).softmax(1)
        >>> factors = factors_from_embeddings(embeddings, probabilities, mask=10)
        >>> factors.n_columns, len(fast_select(factors, 5))
        (10, 5)
    """
    assumed = likelihood_with(likelihood, rows)
    assumed.check_options(weighting, rank)
    check_rows(rows, weighting, rank)
    rank = None if rank is None else int(rank)
    if not isinstance(bias, bool):
        raise TypeError(f"bias must be a bool; got {bias!r}")
    parts = mapped_parts(embeddings)
    if parts is not None and bias:
        raise ValueError("bias=True needs embeddings in memory; files hold no input that is 1")
    found = [as_tensor("embeddings", embeddings)] if parts is None else parts
    inputs = [_check_array("embeddings", "(N, d)", part) for part in found]
    h, n = inputs[0], sum(map(len, inputs))
    if n == 0:
        raise ValueError("embeddings hold no samples; expected at least one")
    if h.shape[1] == 0:
        raise ValueError("embeddings must have at least one dimension; got shape (N, 0)")
    given = as_tensor("probabilities", probabilities)
    said = _Said.of(assumed, n, h, given, top=rows == "top_class")
    width, n_outputs = h.shape[1], said.values.shape[1]
    size = n_outputs * (width + bias)
    wanted = _check_mask(mask, size, h.device)
    _check_size(wanted, size, h.device)
    dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
    if parts is not None:
        coupling = said.coupling(weighting, rank, dtype)
        if isinstance(wanted, int):
            wanted = said.largest(inputs, wanted) if wanted < size else None
        return EmbeddingFactors(inputs, coupling, wanted)
    hidden = h.detach().to(dtype)
    if bias:
        hidden = torch.cat([hidden, hidden.new_ones(n, 1)], dim=1)
    coupling = said.coupling(weighting, rank, hidden.dtype)
    if isinstance(wanted, int):
        wanted = said.largest([hidden], wanted) if wanted < size else None
    return GradientFactors(
        hidden.new_empty(n, coupling.shape[1], 0),
        coupling,
        hidden,
        wanted,
    )


@dataclass(frozen=True)
class _Said:
    """What a head says of the samples, and the rows that follow from it."""

    likelihood: Likelihood
    values: Tensor  # (N, outputs) probabilities, or outputs for a user's function
    to_outputs: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, likelihood: Likelihood, n: int, h: Tensor, given: Any, *, top: bool) -> _Said:
        """Checks what was given beside n embeddings such as h.

        With `top` what counts is the likeliest class alone, as a label for itself.
        """
        if likelihood.name == "gaussian":
            if given is not None:
                raise ValueError(
                    'probabilities must be None with likelihood "gaussian", whose information '
                    f"depends on no prediction; got {type(given).__name__}"
                )
            return cls(likelihood, h.new_zeros(n, 1), torch.clone)
        named = likelihood.name in LIKELIHOODS
        shape = "(N, C)" if named else "(N, outputs)"
        vectors = likelihood.name != "categorical" or top
        p = _check_array("probabilities", shape, given, vectors=vectors)
        _check_fit(n, h, p)
        if top and p.shape[1] == 1:
            check_chances(p)
            return cls(Bernoulli(), p, torch.logit)
        if likelihood.name == "categorical":
            if p.shape[1] < 2:
                raise ValueError(f"probabilities must be of two classes or more; got {p.shape[1]}")
            check_distributions(p)
            if top:
                # What is over where it is 1 by a rounding of the others is no doubt.
                q = p.max(1, keepdim=True).values.clamp(max=1.0)
                return cls(Bernoulli(), q, torch.logit)
            return cls(likelihood, p, torch.log)
        if likelihood.name == "bernoulli":
            check_chances(p)
            return cls(likelihood, p, torch.logit)
        return cls(likelihood, p, torch.clone)

    def chunks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        """Samples, and their outputs (n, outputs) in float64, for `width` numbers a sample."""
        size = max(1, _CHUNK_NUMBERS // width)
        for start in range(0, len(self.values), size):
            part = slice(start, start + size)
            yield part, self.to_outputs(self.values[part].double())

    def coupling(self, weighting: str, rank: int | None, dtype: torch.dtype) -> Tensor:
        """The rows R_x of every sample, (N, r, outputs)."""
        n, n_outputs = self.values.shape
        found: Tensor | None = None
        for part, outputs in self.chunks((rank or n_outputs) * n_outputs):
            rows = self.likelihood.make_rows(outputs, weighting, rank)
            if found is None:
                found = torch.empty(n, *rows.shape[1:], dtype=dtype, device=rows.device)
            if rows.shape[1] != found.shape[1]:
                raise ValueError(
                    f"every sample must have as many rows; some have {rows.shape[1]} and others "
                    f"{found.shape[1]}"
                )
            found[part] = rows
        assert found is not None
        return found

    def largest(self, hidden: Sequence[Tensor], k: int) -> Tensor:
        """Sorted positions of the k largest entries of the head's Fisher diagonal."""
        n, d = len(self.values), hidden[0].shape[1]
        n_outputs = self.values.shape[1]
        diagonal = torch.zeros(n_outputs, d, dtype=torch.float64, device=hidden[0].device)
        first = 0
        for part in hidden:
            values = self.values[first : first + len(part)]
            first += len(part)
            for here, outputs in replace(self, values=values).chunks(max(d, n_outputs)):
                weights = self._diagonal(values[here].double(), outputs)
                diagonal.addmm_(weights.T, part[here].double().square(), alpha=1 / n)
        order = diagonal.flatten().argsort(descending=True, stable=True)
        return order[:k].sort().values

    def _diagonal(self, p: Tensor, outputs: Tensor) -> Tensor:
        """The diagonal of R_x^T R_x, (n, outputs)."""
        if self.likelihood.name in ("categorical", "bernoulli"):
            return p * (1 - p)
        return self.likelihood.make_rows(outputs).square().sum(1)


def _check_array(name: str, shape: str, given: Any, vectors: bool = False) -> Tensor:
    """`given` as a matrix of numbers; with `vectors` also (N,), as (N, 1)."""
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{name} must be a Tensor or an array of shape {shape}; got {type(given).__name__}"
        )
    value: Tensor = given
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        raise TypeError(f"{name} must be a dense tensor of numbers; got {tensor_kind(value)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must have a floating dtype; got {value.dtype}")
    if vectors and value.ndim == 1:
        value = value[:, None]
    if value.ndim != 2:
        also = " or (N,)" if vectors else ""
        raise ValueError(f"{name} must have shape {shape}{also}; got {tuple(value.shape)}")
    if value.numel() and not bool(value.sum(dtype=torch.float64).isfinite()):
        bad = (~value.isfinite()).any(1).nonzero()
        if len(bad):
            raise ValueError(
                f"{name} must be finite; {len(bad)} of {len(value)} samples hold NaN or Inf, the "
                f"first at index {int(bad[0])}"
            )
    return value


def _check_fit(n: int, h: Tensor, p: Tensor) -> None:
    if n != len(p):
        raise ValueError(
            f"embeddings and probabilities must be of the same samples; got {n} and {len(p)}"
        )
    if p.shape[1] == 0:
        raise ValueError("probabilities must be of one output or more; got none")
    if h.device != p.device:
        raise ValueError(f"probabilities are on {p.device}; expected the embeddings' {h.device}")


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
