"""Small inputs for every compiled op, with what the pure torch definition makes of them.

An op that is registered without an entry in SAMPLES fails ``test_every_op_has_samples``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fishermask_fast import reference
from fishermask_fast.factors.gradient_factors import GradientFactors

NAMESPACE = "fishermask_fast"
# Products of torch do the same on a GPU; the callers of these see to it.
CPU_ONLY = (
    "fold_updates",
    "masked_head_forms",
    "masked_head_gram",
    "pick_update",
    "quadratic_forms",
)


@dataclass(frozen=True)
class Sample:
    """Arguments of one call, what it must return, and what it must leave in changed arguments."""

    label: str
    arguments: tuple[Any, ...]
    returned: tuple[Tensor, ...]
    changed: dict[int, Tensor]
    bound: float

    def fresh_arguments(self) -> tuple[Any, ...]:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in self.arguments)


def registered_ops() -> list[str]:
    prefix = f"{NAMESPACE}::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def operator(name: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def check_op(name: str) -> None:
    """Raises AssertionError where an op and its definition part."""
    samples = list(SAMPLES[name]())
    assert samples
    for sample in samples:
        check_sample(name, sample)


def check_sample(name: str, sample: Sample) -> None:
    arguments = sample.fresh_arguments()
    result = operator(name)(*arguments)
    returned = result if isinstance(result, tuple) else () if result is None else (result,)
    pairs = list(zip(returned, sample.returned, strict=True))
    pairs += [(arguments[at], expected) for at, expected in sample.changed.items()]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=sample.bound, atol=sample.bound)


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


Conv = tuple[list[int], list[int], list[int], int]  # kernel, stride, dilation, groups


def conv2d_problems() -> Iterator[tuple[str, Tensor, Tensor, Conv]]:
    """(label, padded input, delta, options) over shapes, strides in memory and dtypes."""
    generator = torch.Generator().manual_seed(0)
    cases: list[tuple[str, int, int, int, tuple[int, int], Conv]] = [
        ("3x3", 3, 5, 7, (6, 5), ([3, 3], [1, 1], [1, 1], 1)),
        ("rows as wide as a vector", 2, 2, 20, (5, 32), ([3, 3], [1, 1], [1, 1], 1)),
        ("strided", 2, 4, 9, (4, 3), ([3, 2], [2, 3], [1, 2], 1)),
        ("grouped", 3, 6, 8, (3, 3), ([2, 3], [1, 2], [2, 1], 2)),
        ("depthwise", 2, 6, 6, (4, 4), ([5, 5], [1, 1], [1, 1], 6)),
        ("1x1", 2, 37, 33, (2, 2), ([1, 1], [1, 1], [1, 1], 1)),
        ("one position", 4, 3, 18, (1, 1), ([3, 3], [1, 1], [1, 1], 1)),
        ("no sample", 0, 3, 4, (2, 2), ([3, 3], [1, 1], [1, 1], 1)),
    ]
    for label, n, wide_in, wide_out, place, options in cases:
        kernel, stride, dilation, _ = options
        size = [
            (p - 1) * s + (k - 1) * d + 1
            for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)
        ]
        for dtype in (torch.float64, torch.float32):
            a = torch.randn(n, wide_in, *size, dtype=dtype, generator=generator)
            delta = torch.randn(n, wide_out, *place, dtype=dtype, generator=generator)
            yield f"{label}, {dtype}", a, delta, options
        if label == "3x3":
            last = torch.channels_last
            yield "channels last", a.to(memory_format=last), delta.to(memory_format=last), options
            yield "expanded", a, delta[:, :, :1, :1].expand_as(delta), options
            yield "crossed", a.mT.contiguous().mT, delta.mT.contiguous().mT, options


def linear_problems() -> Iterator[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 7, 9), (2, 1, 4, 3), (2, 40, 33, 17), (0, 2, 3, 4), (2, 0, 3, 4)]
    for n, tokens, wide_in, wide_out in shapes:
        for dtype in (torch.float64, torch.float32):
            a = torch.randn(n, tokens, wide_in, dtype=dtype, generator=generator)
            delta = torch.randn(n, tokens, wide_out, dtype=dtype, generator=generator)
            yield f"{n} x {tokens}, {wide_in} to {wide_out}, {dtype}", a, delta
    yield "crossed", a.mT.contiguous().mT, delta.mT.contiguous().mT


def sparse_indices(size: int) -> Iterator[tuple[str, Tensor]]:
    """Few positions, many, all and none: single products, whole tiles and both."""
    for label, count in (("none", 0), ("few", 3), ("half", size // 2), ("all", size)):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        yield label, order[:count].sort().values


def product_bound(a: Tensor, n_products: int) -> float:
    return 32 * max(n_products, 1) ** 0.5 * torch.finfo(a.dtype).eps


def fisher_diag_conv2d_samples() -> Iterator[Sample]:
    for label, a, delta, options in conv2d_problems():
        expected = reference.conv2d_weight_gradients(a, delta, *options).square().sum(0)
        bound = product_bound(a, delta.numel())
        yield Sample(label, (a, delta, *options), (expected,), {}, bound)


def masked_grad_conv2d_samples() -> Iterator[Sample]:
    for label, a, delta, options in conv2d_problems():
        gradients = reference.conv2d_weight_gradients(a, delta, *options).flatten(1)
        for which, index in sparse_indices(gradients.shape[1]):
            bound = product_bound(a, delta[0, 0].numel() if len(delta) else 1)
            arguments = (a, delta, index, *options)
            yield Sample(f"{label}, {which}", arguments, (gradients[:, index],), {}, bound)


def fisher_diag_linear_samples() -> Iterator[Sample]:
    for label, a, delta in linear_problems():
        expected = reference.linear_weight_gradients(a, delta).square().sum(0)
        yield Sample(label, (a, delta), (expected,), {}, product_bound(a, delta.numel()))


def masked_grad_linear_samples() -> Iterator[Sample]:
    for label, a, delta in linear_problems():
        gradients = reference.linear_weight_gradients(a, delta).flatten(1)
        for which, index in sparse_indices(gradients.shape[1]):
            bound = product_bound(a, a.shape[1])
            yield Sample(f"{label}, {which}", (a, delta, index), (gradients[:, index],), {}, bound)


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


def masked_head_problems() -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """(label, coupling (c, r, n), hidden (k, n), starts (c + 1,), V (n, r, k))."""
    generator = torch.Generator().manual_seed(0)
    for label, n, r, widths in [
        ("uneven classes", 16, 3, [5, 0, 9, 1, 4]),
        ("wide classes", 32, 2, [13, 12, 15]),
        ("one entry", 16, 1, [0, 1]),
        ("no entry", 16, 2, [0, 0, 0]),
        ("no sample", 0, 2, [3, 2]),
    ]:
        c, k = len(widths), sum(widths)
        coupling = torch.randn(c, r, n, generator=generator, dtype=torch.float64)
        hidden = torch.randn(k, n, generator=generator, dtype=torch.float64)
        starts = torch.tensor([0, *widths]).cumsum(0)
        classes = torch.arange(c).repeat_interleave(torch.tensor(widths))
        yield (
            label,
            coupling,
            hidden,
            starts,
            (coupling[classes] * hidden[:, None]).permute(2, 1, 0),
        )


def masked_head_gram_samples() -> Iterator[Sample]:
    for label, coupling, hidden, starts, v in masked_head_problems():
        k = len(hidden)
        total = torch.ones(k, k, dtype=torch.float64)
        # Rows of a class are written up to the end of their own block.
        ends = starts[torch.searchsorted(starts, torch.arange(k), right=True)]
        written = torch.arange(k) < ends[:, None]
        expected = torch.where(written, total + torch.einsum("nrk,nrl->kl", v, v), total)
        bound = 100 * max(v.numel(), 1) * torch.finfo(torch.float64).eps
        yield Sample(label, (coupling, hidden, starts, total), (), {3: expected}, bound)


def masked_head_forms_samples() -> Iterator[Sample]:
    for label, _, hidden, starts, _ in masked_head_problems():
        (k, n), c = hidden.shape, len(starts) - 1
        root = torch.randn(k, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        matrix = root + root.T
        expected = torch.zeros(c, c, n, dtype=torch.float64)
        for a in range(c):
            for b in range(a + 1):
                left, right = slice(*starts[a : a + 2]), slice(*starts[b : b + 2])
                expected[a, b] = (hidden[left] * (matrix[left, right] @ hidden[right])).sum(0)
        bound = 100 * max(k, 1) ** 2 * torch.finfo(torch.float64).eps
        yield Sample(label, (hidden, starts, matrix), (expected,), {}, bound)


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


def quadratic_forms_samples() -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for label, n, (r, m, c, d), head, dtype, count in [
        ("dense", 19, (3, 23, 0, 0), None, torch.float64, 1),
        ("several blocks of columns, float32", 17, (2, 203, 0, 0), None, torch.float32, 2),
        ("whole head", 21, (4, 13, 3, 7), "whole", torch.float64, 2),
        ("several stretches of pairs, float32", 140, (5, 3, 7, 17), "whole", torch.float32, 1),
        ("many pairs of classes", 5, (2, 1, 23, 2), "whole", torch.float64, 1),
        ("a class without entries", 18, (7, 4, 5, 3), "part", torch.float32, 2),
        ("head alone, one row", 16, (1, 0, 2, 9), "whole", torch.float64, 1),
        ("no entry", 3, (2, 3, 2, 2), "none", torch.float64, 1),
        ("no sample", 0, (3, 5, 4, 3), "whole", torch.float64, 2),
        ("no matrix", 4, (3, 5, 4, 3), "whole", torch.float64, 0),
    ]:
        coupling, hidden, head_index = None, None, None
        if head is not None:
            coupling, hidden = random(n, r, c).to(dtype), random(n, d).to(dtype)
            masked = {"part": [0, 4, 5, 11], "none": []}.get(head)
            head_index = None if masked is None else torch.tensor(masked, dtype=torch.int64)
        factors = GradientFactors(random(n, r, m).to(dtype), coupling, hidden, head_index)
        k = factors.n_columns
        matrices = [random(k, k) for _ in range(count)]
        v = factors.to(dtype=torch.float64).dense()
        forms = [v @ (q.tril() + q.tril(-1).T) @ v.mT for q in matrices]
        expected = torch.stack(forms) if forms else v.new_empty(0, n, r, r)
        # What stands above the diagonal must not be read.
        lower = [q.tril() + torch.full_like(q, torch.nan).triu(1) for q in matrices]
        arguments = (factors.middle, coupling, hidden, head_index, lower)
        bound = 100 * k**2 * torch.finfo(torch.float64).eps
        yield Sample(label, arguments, (expected,), {}, bound)


SAMPLES: dict[str, Callable[[], Iterator[Sample]]] = {
    "fisher_diag_conv2d": fisher_diag_conv2d_samples,
    "fisher_diag_linear": fisher_diag_linear_samples,
    "fold_updates": fold_updates_samples,
    "inverse_products": inverse_products_samples,
    "masked_grad_conv2d": masked_grad_conv2d_samples,
    "masked_grad_linear": masked_grad_linear_samples,
    "masked_head_forms": masked_head_forms_samples,
    "masked_head_gram": masked_head_gram_samples,
    "pick_block": pick_block_samples,
    "pick_update": pick_update_samples,
    "quadratic_forms": quadratic_forms_samples,
    "score_update": score_update_samples,
}
