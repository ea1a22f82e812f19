"""Masked gradients of every sample of a pool.

With the rows R_x of a likelihood and the Jacobian J_x of the outputs, (N, r, k) as GradientFactors:

    V_x = R_x J_x[:, mask]

The head's part of V_x is coupling_x kron hidden_x: its output gradients and its input, unexpanded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from fishermask_fast.checks import check_flag, check_path
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.gradients.capture import Plan, Tape, backward, forward
from fishermask_fast.gradients.fallback import per_sample_rows
from fishermask_fast.gradients.fingerprint import fingerprint
from fishermask_fast.gradients.order import check_order
from fishermask_fast.gradients.passes import batches
from fishermask_fast.gradients.resumable import ResumableFile, find_finished
from fishermask_fast.gradients.terms import Product
from fishermask_fast.likelihoods import LikelihoodLike, check_rows, likelihood_with
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import (
    Inputs,
    Pool,
    check_count,
    check_finite,
    check_indices,
    compute_dtype,
    device_of,
    evaluating,
    trainable,
    unflattening,
    unwrap,
    warn_where_another_is_stated,
)


@overload
def masked_gradients(
    model: nn.Module,
    data: object,
    mask: FisherMask,
    *,
    likelihood: LikelihoodLike = ...,
    weighting: str = ...,
    rank: int | None = ...,
    rows: str = ...,
    batch_size: int | None = ...,
    device: torch.device | str | None = ...,
    progress: bool = ...,
    indices: Iterable[int] | None = ...,
    out: None = ...,
) -> GradientFactors: ...
@overload
def masked_gradients(
    model: nn.Module,
    data: object,
    mask: FisherMask,
    *,
    likelihood: LikelihoodLike = ...,
    weighting: str = ...,
    rank: int | None = ...,
    rows: str = ...,
    batch_size: int | None = ...,
    device: torch.device | str | None = ...,
    progress: bool = ...,
    indices: Iterable[int] | None = ...,
    out: str | os.PathLike[str],
) -> StoredFactors: ...
def masked_gradients(
    model: nn.Module,
    data: object,
    mask: FisherMask,
    *,
    likelihood: LikelihoodLike = "categorical",
    weighting: str = "fisher",
    rank: int | None = None,
    rows: str = "all",
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    indices: Iterable[int] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> GradientFactors | StoredFactors:
    """The factor V_x of every sample, restricted to the mask.

    Columns: the masked entries outside the head, tensor by tensor in the mask's order; then the
    head's, sorted by c * d + j for class c and input j, its bias being the input after the last.
    A head is kept apart where that is smaller, and where it is an nn.Linear with one input vector
    a sample; otherwise its entries are columns like all others.

    Args:
        model: any nn.Module from a batch to outputs, an object with `.logits`, or a tuple whose
            first item is outputs. Run in eval mode; given back as it was.
        data: Tensor, Dataset or DataLoader; sample i of it is sample i of the result.
        mask: which parameters.
        likelihood: what the outputs z are of a sample's labels, and so its rows R_x, R_x^T R_x the
            Fisher matrix of the outputs' distribution: "categorical": logits (N, C) of one of C
            classes; "bernoulli": logits (N, C), or (N,), of labels each for itself, as trained
            with BCEWithLogitsLoss; "gaussian": means (N, d), or (N,), as in regression, of noise
            of variance 1 (another variance s^2 is lamb * s^2 in the selection); or a function
            from outputs (n, ...) in float64 to rows R (n, r, outputs), outputs flattened, which
            looks at each sample for itself. A multi-label model's outputs look like logits of
            one class: nothing tells them apart but this argument.
        weighting: "fisher": rows that carry the root of their outcome's probability, sqrt(p_c) grad
            log p_c, so that V_x^T V_x is the sample's Fisher information; "none": rows without
            it, grad log p_c, as the published code has them; for "bernoulli" both outcomes of
            each label in one row; not for "gaussian" or a function.
        rank: rows r a sample, each costing one backward pass a batch; None: the fewest that are
            exact: for "categorical" C-1 by a Cholesky factor with weighting "fisher" and C with
            "none" (C: one a class, as published), else one an output, or the function's;
            fewer: the largest eigenvectors of R_x^T R_x, an approximation; not for "gaussian".
        rows: "all"; or "top_class" for one row a sample, sqrt(q (1 - q)) grad z, q the probability
            of the likeliest class and z = log(q / (1 - q)): an approximation, for "categorical".
        batch_size: samples a batch; by default the DataLoader's, or chosen here.
        device: where to compute; by default where the model is.
        progress: whether to show a bar.
        indices: only these samples, in this order.
        out: a new file to write them to, batch by batch, instead of keeping them in memory. Where
            a run was stopped, the same call goes on after its last whole batch and ends with the
            same bytes; where the file is whole already, it is returned as it is. Until then its
            name ends in ".part", beside ".part.json".

    Returns:
        GradientFactors in float32, or float64 for a float64 model, on the model's device; with
        `out` the same numbers as StoredFactors.

    Raises:
        TypeError: a model, data or argument of the wrong type.
        ValueError: a mask made for another model, an unknown likelihood or weighting or an
            impossible rank, outputs that are not the likelihood's, an empty pool, a BatchNorm
            without running statistics, NaN or Inf in outputs or gradients, or a file `out` of
            another model, mask, pool, likelihood or the like, which is never overwritten.
        OSError: `out` cannot be written: another process writes it, or the disk is full.

    Example:
        >>> import torch
        >>> from fishermask_fast import FisherMask, masked_gradients
        >>> model = torch.nn.Linear(4, 3)
        >>> factors = masked_gradients(model, torch.rand(20, 4), FisherMask.head(model))
        >>> factors.dense().shape  # N samples, C - 1 rows, k parameters
        torch.Size([20, 2, 15])
    """
    assumed = likelihood_with(likelihood, rows)
    assumed.check_options(weighting, rank)
    check_rows(rows, weighting, rank)
    check_flag("progress", progress)
    check_count("batch_size", batch_size)
    if not isinstance(mask, FisherMask):
        raise TypeError(f"mask must be a FisherMask; got {type(mask).__name__}")
    pool = Pool.of(data)
    chosen = None
    if indices is not None:
        chosen = check_indices(indices, len(pool))
        pool = pool.subset(chosen)
    path = None if out is None else _check_folder(check_path("out", out))
    mask.check(model)
    warn_where_another_is_stated(model, assumed.name)
    dtype = compute_dtype(trainable(unwrap(model)))

    def rows_of(outputs: Tensor) -> Tensor:  # (n, ...) to (n, r, outputs)
        assumed.check_shape(outputs.shape)
        return assumed.make_rows(outputs.detach(), weighting, rank).to(dtype)

    with evaluating(model, device) as net:
        if path is None:
            steps = batches(net, pool, list(mask.indices), batch_size, progress)
            *_, columns = _filled(net, mask, rows_of, steps, len(pool), dtype, whole=True)
            return columns.factors()
        made_from = fingerprint(
            net,
            pool,
            mask,
            indices=chosen,
            likelihood=assumed,
            weighting=weighting,
            rank=rank,
            dtype=dtype,
        )
        stored = find_finished(path, made_from)
        if stored is not None:
            return stored
        with ResumableFile(path, len(pool), made_from) as file:
            # Bits depend on where batches begin.
            size = batch_size or pool.batch_size or file.batch_size
            steps = batches(net, pool, list(mask.indices), size, progress, file.n_done)
            for columns in _filled(net, mask, rows_of, steps, len(pool), dtype, whole=False):
                file.append(columns.factors())
            return file.finish()


def _filled(
    net: nn.Module,
    mask: FisherMask,
    rows_of: Callable[[Tensor], Tensor],
    steps: Iterable[tuple[int, Inputs, Plan]],
    total: int,
    dtype: torch.dtype,
    *,
    whole: bool,
) -> Iterator[_Columns]:
    """Columns after each batch: those of all samples, or (not `whole`) of the batch alone."""
    columns: _Columns | None = None
    n_rows: int | None = None
    for start, inputs, plan in steps:
        with unflattening(net) as unflatten:
            tape = forward(net, plan, inputs, dtype)
            outputs = unflatten(tape.logits)
        check_finite("the model's logits", tape.logits, start, total)
        rows = rows_of(outputs)
        n, r = rows.shape[:2]
        if r != (n_rows or r):
            raise ValueError(
                f"every sample must have as many rows; samples {start} to {start + n - 1} have {r} "
                f"after {n_rows}: pad them to one length, or their rows with zeros"
            )
        n_rows = r
        if plan.reorders:
            check_order(tape)
        if columns is None or not whole:
            columns = _Columns.lay_out(mask, plan, rows, total if whole else n, device_of(net))
        part = slice(start, start + n) if whole else slice(0, n)
        columns.fill(net, inputs, tape, part, rows)
        for what in columns.parts(part):
            check_finite("masked gradients", what, start, total)
        yield columns


@dataclass
class _Columns:
    """The result while it is being filled: where each parameter's entries go."""

    middle: Tensor  # (N, r, k_mid)
    index: dict[str, Tensor]  # masked positions of every parameter in middle
    columns: dict[str, slice]
    head: tuple[str, str | None] | None = None  # weight and bias of a head kept apart
    coupling: Tensor | None = None  # (N, r, C)
    hidden: Tensor | None = None  # (N, d)
    head_index: Tensor | None = None

    @classmethod
    def lay_out(
        cls, mask: FisherMask, plan: Plan, rows: Tensor, n: int, device: torch.device
    ) -> _Columns:
        head = _head_layer(mask, plan, rows.shape[1])
        apart = set() if head is None else set(head)
        # Copies, since positions may be inference tensors.
        index = {n: i.to(device, copy=True) for n, i in mask.indices.items() if n not in apart}
        columns, k = {}, 0
        for name, positions in index.items():
            columns[name] = slice(k, k + positions.numel())
            k += positions.numel()
        r = rows.shape[1]
        result = cls(rows.new_zeros(n, r, k), index, columns)
        if head is not None:
            n_out, width = mask.shapes[head[0]]
            biased = head[1] is not None
            result.head = head
            result.coupling = rows.new_zeros(n, r, n_out)
            result.hidden = rows.new_ones(n, width + biased)
            positions = _head_positions(head, mask)
            if positions.numel() < n_out * (width + biased):
                result.head_index = positions.to(device)
        return result

    def fill(
        self,
        net: nn.Module,
        inputs: Inputs,
        tape: Tape,
        part: slice,
        rows: Tensor,
    ) -> None:
        """Puts one batch's gradients in their places."""
        dtype = self.middle.dtype
        if self.head is not None and self.head[0] in tape.others:
            raise RuntimeError(
                f"the model's path changes with its input: {self.head[0]} goes through other "
                "operations in this batch than in the first"
            )
        for j, deltas in enumerate(backward(tape, rows)):
            for name in self.index.keys() & tape.uses.keys():
                term = tape.term(name, deltas)
                if term is not None:
                    self.middle[part, j, self.columns[name]] = term.masked(self.index[name])
            term = None if self.head is None else tape.term(self.head[0], deltas)
            if term is not None:
                assert isinstance(term, Product)
                assert self.coupling is not None and self.hidden is not None
                self.coupling[part, j] = term.left[:, 0]
                self.hidden[part, : term.right.shape[2]] = term.right[:, 0]
        others = [name for name in tape.others if name in self.index]
        if others:

            def pick(name: str, gradient: Tensor) -> Tensor:
                # Not flatten: a parameter may have no dimensions.
                return gradient.reshape(*gradient.shape[:2], -1)[:, :, self.index[name]]

            for some, which, found in per_sample_rows(net, inputs, rows, others, pick):
                here = slice(part.start + some.start, part.start + some.stop)
                for name, values in found.items():
                    self.middle[here, which, self.columns[name]] = values.to(dtype)

    def parts(self, part: slice) -> list[Tensor]:
        """What has been filled in for these samples."""
        whole = (self.middle, self.coupling, self.hidden)
        return [values[part] for values in whole if values is not None]

    def factors(self) -> GradientFactors:
        return GradientFactors(self.middle, self.coupling, self.hidden, self.head_index)


def _head_positions(head: tuple[str, str | None], mask: FisherMask) -> Tensor:
    """Sorted positions c * d + j of the masked entries in the head's (C, d) matrix."""
    weight, bias = head
    width = mask.shapes[weight][1]
    d = width + (bias is not None)
    index = mask.indices[weight]
    found = [index // width * d + index % width]
    if bias is not None:
        found.append(mask.indices[bias] * d + width)
    return torch.cat(found).sort().values


def _head_layer(mask: FisherMask, plan: Plan, n_rows: int) -> tuple[str, str | None] | None:
    """The head's weight and bias where it can be kept apart and is the smaller so."""
    wanted = {name for name in mask.head_names if name in mask.indices}
    for weight, bias in plan.layers:
        kept = (weight, bias if bias in wanted else None)
        if wanted != {name for name in kept if name is not None}:
            continue
        masked = sum(mask.indices[name].numel() for name in wanted)
        apart = n_rows * mask.shapes[weight][0] + mask.shapes[weight][1] + 1
        return kept if apart < n_rows * masked else None
    return None


def _check_folder(path: Path) -> Path:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out must be in a folder that exists; got {path}")
    return path
