"""Every op of the CPU in plain torch, under its own schema: what runs where nothing was compiled.

Slow, and right: each does what ``reference`` defines, on tensors laid out as the op takes them, so
that a package installed without a compiler makes the picks of a compiled one. Registered by
``loading`` in place of ``_C``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fishermask_fast import reference
from fishermask_fast.triangles import mirrored, packed, unpacked

_FACTORS = "Tensor middle, Tensor? coupling, Tensor? hidden, Tensor? head_index"
SCHEMAS = {
    "score_update": f"({_FACTORS}, Tensor index, Tensor u, Tensor w, int[] ranks, float scale, "
    "Tensor thresholds, bool float64_products, Tensor(a!) a, Tensor(b!) b, Tensor(c!) scores) "
    "-> (Tensor, Tensor, Tensor)",
    "inverse_products": f"({_FACTORS}, Tensor index, Tensor first, Tensor second, Tensor u, "
    "Tensor w, float scale, float sign) -> (Tensor, Tensor, Tensor)",
    "fold_updates": "(Tensor(a!) first, Tensor(b!) second, Tensor u, Tensor w, float sign) -> ()",
    "pick_update": "(Tensor rows, Tensor y, Tensor z, float sign, float negligible) "
    "-> (Tensor, Tensor, Tensor)",
    "quadratic_forms": f"({_FACTORS}, Tensor[] matrices) -> Tensor",
    "masked_head_gram": "(Tensor coupling, Tensor hidden, Tensor starts, Tensor(a!) total) -> ()",
    "masked_head_forms": "(Tensor hidden, Tensor starts, Tensor matrix) -> Tensor",
    "fisher_diag_conv2d": "(Tensor input, Tensor delta, int[] kernel, int[] stride, "
    "int[] dilation, int groups) -> Tensor",
    "fisher_diag_linear": "(Tensor input, Tensor delta) -> Tensor",
    "masked_grad_conv2d": "(Tensor input, Tensor delta, Tensor index, int[] kernel, int[] stride, "
    "int[] dilation, int groups) -> Tensor",
    "masked_grad_linear": "(Tensor input, Tensor delta, Tensor index) -> Tensor",
    "pick_block": "(Tensor e, Tensor h, Tensor setup_traces, int rows, int size, int sign, "
    "float reach) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
}
# Numbers of a chunk's rows at work.
_CHUNK_NUMBERS = 2**22


def register() -> torch.library.Library:
    """Defines every op and gives it its definition for the CPU; keep what is returned."""
    library = torch.library.Library("fishermask_fast", "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, DEFINITIONS[name], "CPU")
    return library


def _rows(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
) -> Tensor:
    """V of every sample, (n, r, k)."""
    if coupling is None or hidden is None:
        return middle
    head = (coupling[..., None] * hidden[:, None, None, :]).flatten(2)
    return torch.cat([middle, head if head_index is None else head[..., head_index]], dim=2)


def _chunks(
    index: Tensor,  # (n,) int64
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of the samples `index`, and V of these in `dtype`."""
    head = 0 if coupling is None or hidden is None else coupling.shape[2] * hidden.shape[1]
    size = max(1, _CHUNK_NUMBERS // max(1, middle.shape[1] * (middle.shape[2] + head)))
    for some in index.split(size) if len(index) else ():
        wide, c, h = (None if x is None else x[some].to(dtype) for x in (middle, coupling, hidden))
        assert wide is not None
        yield some, _rows(wide, c, h, head_index)


def score_update(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    u: Tensor,
    w: Tensor,
    ranks: list[int],
    scale: float,
    thresholds: Tensor,
    float64_products: bool,
    a: Tensor,
    b: Tensor,
    scores: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    n, r = len(scores), middle.shape[1]
    dtype = torch.float64 if float64_products else middle.dtype
    updates = list(zip(u.mT.split(ranks, 1), w.mT.split(ranks, 1), strict=True)) if ranks else []
    best = a.new_full((len(ranks),), -torch.inf)
    best_index = torch.full_like(best, n, dtype=torch.int64)
    first_index = torch.full_like(best_index, n)
    for some, v in _chunks(index, middle, coupling, hidden, head_index, dtype):
        products = [
            tuple((v @ one.to(dtype)).double() * scale for one in update) for update in updates
        ]
        new_a, new_b, before = _updated(products, unpacked(a[some], r), unpacked(b[some], r))
        if updates:  # without any, the scores are asked for and not told
            before[0] = scores[some]
        for t in range(len(ranks)):
            _keep_best(before[t], some, t, best, best_index)
            reaching = some[before[t] >= thresholds[t]]
            if len(reaching):
                first_index[t] = torch.minimum(first_index[t], reaching.min())
        a[some], b[some], scores[some] = packed(new_a), packed(new_b), before[-1]
    return best, best_index, first_index


def _updated(products: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A and B after every update, and the scores before each and after the last, (T + 1, n)."""
    history = [_scores(a, b)]
    for p, r in products:
        a = a - p @ p.mT
        b = b - p @ r.mT - r @ p.mT
        history.append(_scores(a, b))
    return a, b, torch.stack(history)


def _scores(a: Tensor, b: Tensor) -> Tensor:
    """tr(A^-1 B), (n,); NaN where A is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(a)
    x = torch.linalg.solve_triangular(factor, torch.eye(a.shape[1]).to(a), upper=False)
    values = (x @ b @ x.mT).diagonal(dim1=1, dim2=2).sum(1)
    return torch.where(failed == 0, values, torch.nan)


def _keep_best(values: Tensor, some: Tensor, t: int, best: Tensor, best_index: Tensor) -> None:
    """The largest of some scores and its lowest index, where it beats what was found before."""
    numbers = values.nan_to_num(nan=-torch.inf)
    top = numbers.max()
    lowest = some[numbers == top].min()
    if top > best[t] or (top == best[t] and lowest < best_index[t]):
        best[t], best_index[t] = top, lowest


def inverse_products(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    index: Tensor,
    first: Tensor,
    second: Tensor,
    u: Tensor,
    w: Tensor,
    scale: float,
    sign: float,
) -> tuple[Tensor, Tensor, Tensor]:
    wide, c, d = (None if x is None else x[index].double() for x in (middle, coupling, hidden))
    assert wide is not None
    rows = _rows(wide, c, d, head_index) * scale
    p, r = rows @ u.mT, rows @ w.mT
    y = rows @ mirrored(first) - sign * p @ u
    z = rows @ mirrored(second) - sign * (p @ w + r @ u)
    return rows, y, z


def fold_updates(first: Tensor, second: Tensor, u: Tensor, w: Tensor, sign: float) -> None:
    mixed = u.mT @ w
    first -= sign * (u.mT @ u).tril()
    second -= sign * (mixed + mixed.mT).tril()


def pick_update(
    rows: Tensor, y: Tensor, z: Tensor, sign: float, negligible: float
) -> tuple[Tensor, Tensor, Tensor]:
    n, r, _ = rows.shape
    eye = torch.eye(r).to(rows)
    k, h = y @ rows.mT, z @ rows.mT
    h = (h + h.mT) / 2
    least = (1e-15 * k.diagonal(dim1=1, dim2=2).sum(1)).clamp(min=negligible)
    counts = torch.linalg.cholesky_ex(k - least[:, None, None] * eye).info == 0
    factor, failed = torch.linalg.cholesky_ex(eye + sign * k)
    counts &= failed == 0
    x = torch.linalg.solve_triangular(factor, eye.expand(n, r, r), upper=False)
    change = x @ h @ x.mT
    u = x @ y
    w = x @ z - sign * change @ u / 2
    scores = sign * change.diagonal(dim1=1, dim2=2).sum(1)
    alive = counts[:, None, None]
    zero = torch.zeros_like(u)
    return torch.where(alive, u, zero), torch.where(alive, w, zero), scores.where(counts, -math.inf)


def quadratic_forms(
    middle: Tensor,
    coupling: Tensor | None,
    hidden: Tensor | None,
    head_index: Tensor | None,
    matrices: list[Tensor],
) -> Tensor:
    n, r, _ = middle.shape
    full = [mirrored(matrix) for matrix in matrices]
    out = middle.new_empty(len(matrices), n, r, r, dtype=torch.float64)
    every = torch.arange(n)
    for some, v in _chunks(every, middle, coupling, hidden, head_index, torch.float64):
        for result, matrix in zip(out, full, strict=True):
            half = v @ matrix @ v.mT
            result[some] = (half + half.mT) / 2
    return out


def masked_head_gram(coupling: Tensor, hidden: Tensor, starts: Tensor, total: Tensor) -> None:
    entries = torch.arange(len(hidden))
    classes = torch.searchsorted(starts, entries, right=True) - 1
    v = coupling[classes] * hidden[:, None]  # (k, r, n)
    gram = torch.einsum("krn,lrn->kl", v, v)
    # Rows of a class are written up to the end of their own block.
    total += torch.where(entries < starts[classes + 1][:, None], gram, 0.0)


def masked_head_forms(hidden: Tensor, starts: Tensor, matrix: Tensor) -> Tensor:
    bounds = starts.tolist()
    parts = [slice(*ends) for ends in zip(bounds[:-1], bounds[1:], strict=True)]
    out = hidden.new_zeros(len(parts), len(parts), hidden.shape[1])
    for a, left in enumerate(parts):
        for b, right in enumerate(parts[: a + 1]):
            out[a, b] = (hidden[left] * (matrix[left, right] @ hidden[right])).sum(0)
    return out


def fisher_diag_conv2d(
    input: Tensor,
    delta: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    gradients = reference.conv2d_weight_gradients(input, delta, kernel, stride, dilation, groups)
    return gradients.square().sum(0)


def fisher_diag_linear(input: Tensor, delta: Tensor) -> Tensor:
    return reference.linear_weight_gradients(input, delta).square().sum(0)


def masked_grad_conv2d(
    input: Tensor,
    delta: Tensor,
    index: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    gradients = reference.conv2d_weight_gradients(input, delta, kernel, stride, dilation, groups)
    return gradients.flatten(1)[:, index]


def masked_grad_linear(input: Tensor, delta: Tensor, index: Tensor) -> Tensor:
    return reference.linear_weight_gradients(input, delta).flatten(1)[:, index]


def pick_block(
    e: Tensor, h: Tensor, setup_traces: Tensor, rows: int, size: int, sign: int, reach: float
) -> tuple[Tensor, ...]:
    m = len(setup_traces)
    eye = torch.eye(rows).to(e)
    e, h = ((x + x.mT) / 2 for x in (e, h))
    blocks = torch.arange(m * rows).view(m, rows)
    taken = torch.zeros(m, dtype=torch.bool)
    n, q = e.new_zeros(2, size * rows, size * rows)
    slots, told, xs = [], [], []
    products: list[tuple[Tensor, Tensor]] = []
    before = None
    for t in range(size + (size == 0)):
        diagonal_e, diagonal_h = (
            x.view(m, rows, m, rows).diagonal(dim1=0, dim2=2).permute(2, 0, 1) for x in (e, h)
        )
        scores = _scores(eye + sign * diagonal_e, sign * diagonal_h)
        before = scores if before is None else before
        if size == 0:
            break
        traces = diagonal_h.diagonal(dim1=1, dim2=2).sum(1).abs()
        losses = setup_traces / traces.clamp(min=1e-300)
        slot, facts = _winner(scores, losses, taken, reach)
        taken[slot] = True
        slots.append(slot)
        told.append(facts)
        s = blocks[slot]
        factor = torch.linalg.cholesky_ex(eye + sign * e[s][:, s]).L
        x = torch.linalg.solve_triangular(factor, eye, upper=False)
        k = x @ h[s][:, s] @ x.mT
        p = e[:, s] @ x.mT
        r = h[:, s] @ x.mT - sign * p @ k / 2
        at = slice(t * rows, (t + 1) * rows)
        for i, (p_i, r_i) in enumerate(products):
            n[at, i * rows : (i + 1) * rows] = x @ p_i[s]
            q[at, i * rows : (i + 1) * rows] = x @ r_i[s]
        q[at, at] = k / 2
        products.append((p, r))
        xs.append(x)
        e = e - sign * p @ p.mT
        h = h - sign * (p @ r.mT + r @ p.mT)
    assert before is not None
    values = torch.tensor(told, dtype=e.dtype).view(-1, 3).unbind(1)
    x_all = torch.stack(xs) if xs else e.new_empty(0, rows, rows)
    return (torch.tensor(slots, dtype=torch.int64), *values, x_all, n, q, before)


def _winner(
    scores: Tensor, losses: Tensor, taken: Tensor, reach: float
) -> tuple[int, tuple[float, float, float]]:
    """The best of the leaders not taken, lowest first; its score, the next best, the loss."""
    free = (~taken).nonzero().flatten().tolist()
    of = scores.tolist()
    best = max(free, key=lambda leader: -math.inf if math.isnan(of[leader]) else of[leader])
    second = max((of[leader] for leader in free if leader != best), default=-math.inf)
    near = scores >= of[best] - reach * abs(of[best])
    lost = losses[near & ~taken]
    score = math.nan if any(math.isnan(of[leader]) for leader in free) else of[best]
    return best, (score, second, float(lost.max()) if len(lost) else 0.0)


DEFINITIONS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in SCHEMAS}
