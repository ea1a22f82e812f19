"""V_x Q V_x^T of every sample for some symmetric Q, in float64.

With V = [middle | coupling kron hidden], T_x[a, b] = sum of Q_ef h_e h_f over the entries e of
class a and f of class b, and only half of what is symmetric,

    V Q V^T = H + H^T,   H = middle tril(Q) middle^T + coupling (Z + tril(T) coupling^T)
    Z_x[c] = (sum over e of class c of h_e Q_e) middle^T

where tril halves the diagonal: each entry of Q's triangle is multiplied with once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fishermask_fast.ops import FactorTensors
from fishermask_fast.triangles import columns_at_once, on_cpu, packed


class WideForms:
    """x -> V_x Q V_x^T by products of torch, for a device without the op.

    The blocks of every Q are laid out once for all chunks, which are float64.
    """

    def __init__(self, matrices: Sequence[Tensor], chunk: FactorTensors) -> None:
        m = chunk.middle.shape[2]
        # Q = T + T^T with T lower triangular: half the product, symmetrised at the end.
        self.halves = [_lower_half(q[:m, :m]) for q in matrices]
        if chunk.coupling is None or chunk.hidden is None:
            return
        c, d = chunk.coupling.shape[2], chunk.hidden.shape[1]
        self.lower = torch.tril_indices(c, c, device=chunk.middle.device)
        self.crosses: list[Tensor] = []
        triangles: list[Tensor] = []
        for q in matrices:
            rows = scatter_rows(q[m:], chunk)  # (C, d, k)
            self.crosses.append(rows[:, :, :m].transpose(0, 1).reshape(d, c * m))
            head = scatter_rows(rows.reshape(c * d, -1)[:, m:].T, chunk)  # (C, d, C d)
            blocks = head.view(c, d, c, d).transpose(1, 2)[self.lower[0], self.lower[1]]
            triangles.append(_pack_symmetric(blocks))
        self.pairs = torch.cat(triangles)  # (matrices * pairs, d (d + 1) / 2)

    def __call__(self, chunk: FactorTensors) -> list[Tensor]:
        n, r, m = chunk.middle.shape
        flat = chunk.middle.reshape(n * r, m)
        left = [_times_lower(flat, half).view(n, r, m) for half in self.halves]
        if chunk.coupling is None or chunk.hidden is None:
            return [_symmetric(torch.bmm(x, chunk.middle.transpose(1, 2))) for x in left]
        c = chunk.coupling.shape[2]
        inner = chunk.middle.new_empty(n, c, c)
        values = packed_square(chunk.hidden) @ self.pairs.T  # (n, matrices * pairs)
        out = []
        for x, cross, pairs in zip(left, self.crosses, values.chunk(len(left), dim=1), strict=True):
            x.baddbmm_(chunk.coupling, (chunk.hidden @ cross).view(n, c, m))
            inner[:, self.lower[0], self.lower[1]] = pairs
            inner[:, self.lower[1], self.lower[0]] = pairs
            head = chunk.coupling @ inner @ chunk.coupling.transpose(1, 2)
            out.append(_symmetric(torch.bmm(x, chunk.middle.transpose(1, 2))).add_(head))
        return out


def scatter_rows(rows: Tensor, factors: FactorTensors) -> Tensor:
    """(k_head, q) rows of the masked head entries as a full (C, d, q) block."""
    assert factors.coupling is not None and factors.hidden is not None
    c, d = factors.coupling.shape[2], factors.hidden.shape[1]
    if factors.head_index is not None:
        full = rows.new_zeros(c * d, rows.shape[1])
        full[factors.head_index] = rows
        rows = full
    return rows.reshape(c, d, -1)


def packed_square(hidden: Tensor) -> Tensor:
    """The lower triangle of h h^T for every row h of (n, d), as (n, d (d + 1) / 2)."""
    n, d = hidden.shape
    if not on_cpu(hidden):  # three launches in place of d
        rows, columns = torch.tril_indices(d, d, device=hidden.device)
        return hidden[:, rows].mul_(hidden[:, columns])
    out = hidden.new_empty(n, d * (d + 1) // 2)
    at = 0
    for i in range(d):
        torch.mul(hidden[:, : i + 1], hidden[:, i : i + 1], out=out[:, at : at + i + 1])
        at += i + 1
    return out


def _pack_symmetric(blocks: Tensor) -> Tensor:
    """Matrices (q, d, d) laid out so that packed_square(h) @ packed^T = h^T Q h."""
    both = blocks + blocks.transpose(1, 2)
    both.diagonal(dim1=1, dim2=2).mul_(0.5)
    return packed(both)


def _symmetric(half: Tensor) -> Tensor:
    return half + half.transpose(1, 2)


def _lower_half(matrix: Tensor) -> Tensor:
    half = matrix.tril()
    half.diagonal().mul_(0.5)
    return half


def _times_lower(left: Tensor, lower: Tensor) -> Tensor:
    """left @ lower for a lower triangular matrix, leaving out the blocks that are zero."""
    k, step = lower.shape[0], columns_at_once(left)
    if k <= step:
        return left @ lower
    out = left.new_empty(left.shape[0], k)
    for start in range(0, k, step):
        stop = min(start + step, k)
        torch.mm(left[:, start:], lower[start:, start:stop], out=out[:, start:stop])
    return out
