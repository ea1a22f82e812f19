"""How many samples of each class a pool keeps.

counts   n_c as given, for the first classes; the others are left out
ratio    n_c = s R^(-c / (C - 1)), c = 0 .. C-1: the largest class holds R times the smallest,
         with s as large as the samples (and the pool's size, where one is asked for) allow
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ratio_counts(available: Sequence[int], ratio: float, total: int | None = None) -> list[int]:
    """Samples of each class for a ratio of the largest class to the smallest.

    Args:
        available: Samples that there are of each class.
        ratio: R >= 1.
        total: At most so many samples in all.

    Raises:
        ValueError: The ratio is below 1, or leaves a class without samples.
    """
    if not 1 <= ratio < math.inf:
        raise ValueError(f"imbalance_ratio must be a finite number of at least 1; got {ratio}")
    steps = max(len(available) - 1, 1)
    profile = [ratio ** (-label / steps) for label in range(len(available))]
    scale = min(count / share for count, share in zip(available, profile, strict=True))
    if total is not None:
        scale = min(scale, total / sum(profile))
    # The small excess keeps a product such as 250.0 from being cut to 249 by rounding.
    counts = [int(scale * share * (1 + 1e-9)) for share in profile]
    if min(counts) < 1:
        raise ValueError(
            f"imbalance_ratio {ratio} leaves class number {counts.index(min(counts))} no samples"
        )
    return counts


def draw_counts(targets: Tensor, counts: Sequence[int], names: Sequence[str], seed: int) -> Tensor:
    """Indices (sorted, int64) of ``counts[c]`` samples of each class c, drawn by ``seed``.

    Raises:
        ValueError: A class has fewer samples.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for label, count in enumerate(counts):
        members = (targets == label).nonzero().flatten()
        if not 1 <= count <= len(members):
            raise ValueError(
                f"class {names[label]} can give 1 to {len(members)} samples; got {count}"
            )
        kept.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(kept).sort().values
