"""Rules of operations that take rows of a table: dW[n,v] = sum of delta where v was looked up."""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.gradients.reading import Maker, Reading
from fishermask_fast.gradients.terms import Lookup, Term


def _lookup(r: Reading, indices: Tensor) -> Maker | None:
    """A table of which each index took a row; indices below 0 count for nothing."""
    if r.layout.axis >= indices.ndim:
        return None
    rows = r.layout.arrange(indices).reshape(r.layout.n, -1).to(torch.int64)
    samples = torch.arange(r.layout.n, device=rows.device)[:, None].expand_as(rows)
    width = max(1, torch.Size(r.shape[1:]).numel())

    def make(delta: Tensor) -> Term:
        values = r.layout.arrange(delta).reshape(-1, width)
        return Lookup(samples.flatten(), rows.flatten(), values, r.layout.n, r.shape)

    return make


def embedding(r: Reading) -> Maker | None:
    if r.saved("_saved_scale_grad_by_freq"):
        return None
    indices, padding = r.saved("_saved_indices"), r.saved("_saved_padding_idx")
    # The padding token gets no gradient.
    return _lookup(r, indices.masked_fill(indices == padding, -1) if _row(r, padding) else indices)


def _row(r: Reading, padding: int) -> bool:
    """Whether a padding index is one of the table's (none reads as -1, unsigned)."""
    return 0 <= padding < r.shape[0]


def embedding_bag(r: Reading) -> Maker | None:
    mode = r.saved("_saved_mode")  # 0: sum, 1: mean, 2: max
    if r.argument != 0 or mode == 2 or r.saved("_saved_scale_grad_by_freq") or r.layout.axis != 0:
        return None
    indices, padding = r.saved("_saved_indices"), r.saved("_saved_padding_idx")
    weights = r.saved("_saved_per_sample_weights")
    bags = r.result[0]
    offsets = r.saved("_saved_offsets")[:bags].contiguous()
    entries = torch.arange(len(indices), device=indices.device, dtype=offsets.dtype)
    bag = torch.searchsorted(offsets, entries, right=True) - 1
    rows = indices.to(torch.int64)
    if _row(r, padding):
        rows = rows.masked_fill(rows == padding, -1)
    numbers = torch.arange(bags, device=bag.device)
    owner = r.layout.arrange(numbers).new_empty(bags)
    order = r.layout.arrange(numbers)  # (n, entries): which bags are a sample's
    owner[order.flatten()] = numbers[: r.layout.n].repeat_interleave(r.layout.entries)
    factor = torch.ones(len(rows), dtype=r.dtype, device=rows.device)
    if weights is not None:
        factor = weights
    if mode == 1:
        counts = torch.bincount(bag[rows >= 0], minlength=bags).clamp(min=1)
        factor = factor / counts[bag]

    def make(delta: Tensor) -> Term:
        values = delta[bag] * factor[:, None]
        return Lookup(owner[bag], rows, values, r.layout.n, r.shape)

    return make


def index(r: Reading) -> Maker | None:
    if r.node.name() == "IndexSelectBackward0":
        taken, first = r.saved("_saved_index"), r.saved("_saved_dim") in (0, -len(r.shape))
    else:
        taken, *rest = r.saved("_saved_indices")
        first = all(further is None for further in rest)
    # Elsewhere than first, or by a mask, other numbers than whole rows are taken.
    if not first or taken is None or taken.dtype not in (torch.int32, torch.int64):
        return None
    return _lookup(r, taken % r.shape[0])
