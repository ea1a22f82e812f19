"""Small inputs for the ops of the set-up: V Q V^T, and sums of V^T V."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from op_sample import Sample
from torch import Tensor

from fishermask_fast.factors.gradient_factors import GradientFactors


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
