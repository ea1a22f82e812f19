"""Small inputs for the ops of the selection: scores, picks, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from op_sample import Sample
from torch import Tensor

from fishermask_fast import reference
from fishermask_fast.factors.gradient_factors import GradientFactors


def score_update_samples() -> Iterator[Sample]:
    for label, dtype, head in [
        ("dense", torch.float64, None),
        ("whole head", torch.float64, "whole"),
        ("part of the head", torch.float64, "part"),
        ("float32 factors", torch.float32, "part"),
        ("float32 products", torch.float32, "part"),
        ("no update", torch.float64, "whole"),
        ("no candidate", torch.float64, "part"),
    ]:
        yield score_update_sample(label, dtype, head)


def score_update_sample(label: str, dtype: torch.dtype, head: str | None) -> Sample:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, r, m, c, d = 19, 3, 5, 4, 3
    float64_products = label != "float32 products"
    ranks = [] if label == "no update" else [3, 2]
    coupling, hidden, head_index = None, None, None
    if head is not None:
        coupling, hidden = random(n, r, c).to(dtype), random(n, d).to(dtype)
        head_index = torch.tensor([0, 4, 5, 11]) if head == "part" else None
    factors = GradientFactors(random(n, r, m).to(dtype), coupling, hidden, head_index)
    k, scale = factors.n_columns, 0.7
    # Updates this small keep A positive definite, as updates of real picks do.
    u, w = 0.03 * random(k, sum(ranks)), random(k, sum(ranks))
    root = random(n, r, r)
    a = torch.eye(r, dtype=torch.float64) + random(n, r, r).tril(-1).mul(0.1).square()
    a = (a + a.mT) / 2 + torch.eye(r, dtype=torch.float64)
    b = root @ root.mT
    n_chosen = 0 if label == "no candidate" else 17
    index = torch.randperm(n, generator=generator)[:n_chosen]

    pairs = list(zip(u.split(ranks, 1), w.split(ranks, 1), strict=True)) if ranks else []
    v = scale * factors.to(dtype=torch.float64).dense()[index]
    new_a, new_b, history = reference.score_update(v, pairs, a[index], b[index])
    thresholds = torch.tensor([1.5, 3.0], dtype=torch.float64)[: len(ranks)]
    scores = torch.full((n,), -1.0, dtype=torch.float64)
    scores[index] = history[0]

    rows, columns = torch.tril_indices(r, r)
    packed_a, packed_b = a[:, rows, columns], b[:, rows, columns]
    expected_a, expected_b, expected_scores = packed_a.clone(), packed_b.clone(), scores.clone()
    expected_a[index] = new_a[:, rows, columns]
    expected_b[index] = new_b[:, rows, columns]
    expected_scores[index] = history[-1]

    best = torch.full((len(ranks),), -torch.inf, dtype=torch.float64)
    best_index = torch.full((len(ranks),), n)
    first_index = torch.full((len(ranks),), n)
    for t in range(len(ranks) if n_chosen else 0):
        best[t] = history[t].max()
        best_index[t] = index[history[t].argmax()]
        reaching = index[history[t] >= thresholds[t]]
        first_index[t] = reaching.min() if len(reaching) else n

    parts = (factors.middle, coupling, hidden, head_index)
    numbers = (ranks, scale, thresholds, float64_products)
    return Sample(
        label,
        (*parts, index, u.T.contiguous(), w.T.contiguous(), *numbers, packed_a, packed_b, scores),
        (best, best_index, first_index),
        {11: expected_a, 12: expected_b, 13: expected_scores},
        100 * k * torch.finfo(torch.float64 if float64_products else torch.float32).eps,
    )


def pick_block_samples() -> Iterator[Sample]:
    for label, m, r, size, sign in [
        ("picks", 7, 3, 4, 1),
        ("removals", 7, 3, 4, -1),
        ("one row", 6, 1, 5, 1),
        ("all of them", 5, 2, 5, 1),
        ("no pick", 4, 3, 0, 1),
        ("many rows", 3, 36, 2, 1),
    ]:
        yield pick_block_sample(label, m, r, size, sign)


def pick_block_sample(label: str, m: int, r: int, size: int, sign: int) -> Sample:
    generator = torch.Generator().manual_seed(0)
    k = 2 * m * r
    v = torch.randn(m * r, k, generator=generator, dtype=torch.float64)
    root = torch.randn(k, k, generator=generator, dtype=torch.float64)
    fisher = root @ root.T / k
    # Removals need M to hold the leaders.
    held = v.T @ v if sign < 0 else torch.zeros(k, k, dtype=torch.float64)
    inverse = torch.linalg.inv(torch.eye(k, dtype=torch.float64) + held)
    e, h = v @ inverse @ v.T, v @ inverse @ fisher @ inverse @ v.T
    rows, columns = torch.tril_indices(r, r)
    eye = torch.eye(r, dtype=torch.float64)

    def packed(matrix: Tensor) -> Tensor:
        return matrix.view(m, r, m, r).diagonal(dim1=0, dim2=2).permute(2, 0, 1)[:, rows, columns]

    def state(steps: int) -> tuple[Tensor, Tensor]:
        _, history, _, h_then, _ = reference.pick_block(e, h, r, steps, sign)
        return sign * packed(h_then), history[-1]

    setup_traces = 2 * h.view(m, r, m, r).diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1).sum(1)
    slots, history, _, _, _ = reference.pick_block(e, h, r, size, sign)
    scores, runners_up, losses, xs = [], [], [], []
    n = torch.zeros(size * r, size * r, dtype=torch.float64)
    q = torch.zeros_like(n)
    for t, slot in enumerate(slots):
        b_then, scores_then = state(t)
        free = scores_then.clone()
        free[slots[:t]] = -torch.inf
        scores.append(free[slot])
        runners_up.append(free[torch.arange(m) != slot].max())
        traces = sign * b_then[:, rows == columns].sum(1)
        near = free >= free[slot] - 0.9 * free[slot].abs()
        losses.append((setup_traces / traces)[near].max())
        _, _, e_then, h_then, products = reference.pick_block(e, h, r, t, sign)
        s, own = slice(slot * r, (slot + 1) * r), slice(t * r, (t + 1) * r)
        x = torch.linalg.inv(torch.linalg.cholesky(eye + sign * e_then[s, s]))
        xs.append(x)
        n[own, : t * r] = x @ products[s]
        q[own, own] = x @ h_then[s, s] @ x.T / 2
        for i, before in enumerate(slots[:t]):
            _, _, e_then, h_then, _ = reference.pick_block(e, h, r, i, sign)
            p_i, at = products[:, i * r : (i + 1) * r], slice(before * r, (before + 1) * r)
            half = xs[i] @ h_then[at, at] @ xs[i].T / 2
            r_i = h_then[:, at] @ xs[i].T - sign * p_i @ half
            q[own, i * r : (i + 1) * r] = x @ r_i[s]

    def stacked(values: list[Tensor], *shape: int) -> Tensor:
        return torch.stack(values) if values else torch.empty(0, *shape, dtype=torch.float64)

    expected = (
        torch.tensor(slots, dtype=torch.int64),
        *map(stacked, (scores, runners_up, losses)),
        stacked(xs, r, r),
        n,
        q,
        history[0],
    )
    arguments = (e, h, setup_traces, r, size, sign, 0.9)
    return Sample(label, arguments, expected, {}, 1e4 * k * torch.finfo(torch.float64).eps)


def inverse_products_samples() -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for label, (r, m, c, d), head, dtype, n_waiting, sign in [
        ("dense", (3, 23, 0, 0), None, torch.float64, 5, 1.0),
        ("whole head", (4, 6, 3, 7), "whole", torch.float64, 9, 1.0),
        ("part of the head", (3, 5, 4, 3), "part", torch.float64, 1, -1.0),
        ("a class without entries, float32", (7, 4, 5, 3), "part", torch.float32, 6, 1.0),
        ("head alone, one row", (1, 0, 2, 9), "whole", torch.float64, 4, 1.0),
        ("wide", (5, 531, 3, 40), "whole", torch.float32, 17, -1.0),
        ("nothing waits", (3, 5, 4, 3), "whole", torch.float64, 0, 1.0),
        ("no sample", (3, 5, 4, 3), "whole", torch.float64, 2, 1.0),
    ]:
        coupling, hidden, head_index = None, None, None
        if head is not None:
            coupling, hidden = random(6, r, c).to(dtype), random(6, d).to(dtype)
            head_index = torch.tensor([0, 4, 5, 11]) if head == "part" else None
        factors = GradientFactors(random(6, r, m).to(dtype), coupling, hidden, head_index)
        k = factors.n_columns
        matrices = [random(k, k) for _ in range(2)]
        symmetric = [(matrix + matrix.T) / 2 for matrix in matrices]
        u, w = random(n_waiting, k), random(n_waiting, k)
        index = (
            torch.tensor([], dtype=torch.int64) if label == "no sample" else torch.tensor([4, 1])
        )
        v = 0.7 * factors.to(dtype=torch.float64).dense()[index]
        products = reference.inverse_products(v, *symmetric, u, w, sign)
        # What stands above the diagonal must not be read.
        lower = [x.tril() + torch.full_like(x, torch.nan).triu(1) for x in symmetric]
        arguments = (factors.middle, coupling, hidden, head_index, index, *lower, u, w, 0.7, sign)
        bound = 100 * k * max(r, n_waiting) * torch.finfo(torch.float64).eps
        yield Sample(label, arguments, (v, *products), {}, bound)


def fold_updates_samples() -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for label, k, h, sign in [
        ("several tiles", 101, 13, 1.0),
        ("whole tiles, removals", 48, 5, -1.0),
        ("less than a tile", 3, 2, 1.0),
        ("nothing waits", 9, 0, 1.0),
    ]:
        first, second = torch.randn(2, k, k, generator=generator, dtype=torch.float64)
        u, w = torch.randn(2, h, k, generator=generator, dtype=torch.float64)
        below = torch.ones(k, k, dtype=torch.bool).tril()
        # What stands above the diagonal must be left alone.
        expected = [
            torch.where(below, matrix - sign * change, matrix)
            for matrix, change in ((first, u.T @ u), (second, u.T @ w + w.T @ u))
        ]
        bound = 100 * max(h, 1) * torch.finfo(torch.float64).eps
        changed = dict(enumerate(expected))
        yield Sample(label, (first, second, u, w, sign), (), changed, bound)


def pick_update_samples() -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for label, n, r, k, sign in [
        ("pick", 1, 9, 143, 1),
        ("removal", 1, 3, 40, -1),
        ("several, one row", 3, 1, 5, 1),
        ("more rows than a tile", 2, 37, 300, 1),
        ("no sample", 0, 3, 5, 1),
        ("a sample that changes nothing", 2, 4, 9, 1),
        ("fewer directions than rows", 2, 4, 9, 1),
    ]:
        v = torch.randn(n, r, k, generator=generator, dtype=torch.float64)
        held = v.flatten(0, 1).T @ v.flatten(0, 1) if sign < 0 else v.new_zeros(k, k)
        inverse = torch.linalg.inv(torch.eye(k, dtype=torch.float64) + held)
        root = torch.randn(k, k, generator=generator, dtype=torch.float64)
        double = inverse @ (root @ root.T / k) @ inverse
        inverse = (inverse + inverse.T) / 2
        if label == "a sample that changes nothing":
            v[1] = 0.0
        elif label == "fewer directions than rows":
            v[1, 2] = v[1, 0] - 2 * v[1, 3]
        expected = reference.pick_update(v, inverse, double, sign)
        if len(v) == 2 and r == 4:
            for part, nothing in zip(expected, (0.0, 0.0, -torch.inf), strict=True):
                part[1] = nothing
        bound = 1e3 * k * torch.finfo(torch.float64).eps
        yield Sample(label, (v, v @ inverse, v @ double, sign, 1e-13), expected, {}, bound)
