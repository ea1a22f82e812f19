"""Products with the gradients of a masked head alone, by its masked entries e = (c_e, j_e).

With V_x e = coupling_x[:, c_e] hidden_x[j_e], the sums that need no row of V_x are

    (V_x^T V_x)_ef = (coupling_x^T coupling_x)[c_e, c_f] h_e h_f
    V_x Q V_x^T = coupling_x T_x coupling_x^T,   T_x[a, b] = sum_{c_e = a, c_f = b} h_e Q_ef h_f

k^2 products a sample, where rows of V_x take r k^2 and the whole head takes (C d)^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.ops import forms
from fishermask_fast.triangles import mirrored

# Samples at a time: few enough for a class's entries to stay in the first-level cache.
_SAMPLES = 128
_STEP = 16
_FORM_NUMBERS = 2**23


def suits(middle: Tensor, coupling: Tensor | None, head_index: Tensor | None, width: int) -> bool:
    """Whether these factors are a masked head alone, on the CPU, and cheapest by its entries."""
    if coupling is None or head_index is None or middle.shape[2] or middle.device.type != "cpu":
        return False
    r, n_classes, k = coupling.shape[1], coupling.shape[2], head_index.numel()
    ours = k**2 + 2 * r * n_classes**2
    return 0 < ours < min(r * k**2, (n_classes * width) ** 2 // 2)


def add_gram(total: Tensor, coupling: Tensor, hidden: Tensor, head_index: Tensor) -> None:
    """Adds sum_x V_x^T V_x to the lower triangle of `total` (k, k) float64."""
    starts, inputs = _entries(coupling, hidden, head_index)
    for weights, h in zip(coupling.split(_SAMPLES), hidden.split(_SAMPLES), strict=True):
        forms.masked_head_gram(
            _samples_last(weights.transpose(1, 2)), _samples_last(h[:, inputs]), starts, total
        )


def quadratic_form(matrix: Tensor, coupling: Tensor, hidden: Tensor, head_index: Tensor) -> Tensor:
    """V_x Q V_x^T for every sample, (N, r, r) float64.

    Q is a symmetric (k, k) float64 matrix, of which the lower triangle is read.
    """
    matrix = mirrored(matrix)
    starts, inputs = _entries(coupling, hidden, head_index)
    n, r, n_classes = coupling.shape
    size = min(_SAMPLES, max(_STEP, _FORM_NUMBERS // n_classes**2 // _STEP * _STEP))
    out = torch.empty(n, r, r, dtype=torch.float64, device=coupling.device)
    for form, weights, h in zip(
        out.split(size), coupling.split(size), hidden.split(size), strict=True
    ):
        inner = forms.masked_head_forms(_samples_last(h[:, inputs]), starts, matrix)
        half = inner.permute(2, 0, 1)[: len(h)].tril()
        half.diagonal(dim1=1, dim2=2).mul_(0.5)
        rows = weights.double()
        product = rows @ half @ rows.mT
        torch.add(product, product.mT, out=form)
    return out


def _entries(coupling: Tensor, hidden: Tensor, head_index: Tensor) -> tuple[Tensor, Tensor]:
    """Where each class starts among the entries, (C + 1,), and the input of each, (k,)."""
    n_classes, d = coupling.shape[2], hidden.shape[1]
    firsts = torch.arange(n_classes + 1, device=head_index.device) * d
    return torch.searchsorted(head_index.contiguous(), firsts), head_index % d


def _samples_last(values: Tensor) -> Tensor:
    """(n, ...) as (..., n) float64, n padded with zeros to a multiple of a kernel's step."""
    n = len(values)
    padded = values.new_zeros(*values.shape[1:], -(-n // _STEP) * _STEP, dtype=torch.float64)
    padded[..., :n] = values.movedim(0, -1)
    return padded
