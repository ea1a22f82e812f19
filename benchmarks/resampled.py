"""Gradients drawn from the tests' oracle: real ones where no data set and no network is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fishermask_fast import GradientFactors

ORACLE = Path(__file__).parent.parent / "tests" / "data" / "fmnist_resnet18.npz"


@dataclass(frozen=True)
class Gradients:
    """Factors of a pool, and where they come from."""

    factors: GradientFactors
    name: str


def resampled_gradients(n_samples: int, seed: int = 0, size: float = 0.01) -> Gradients:
    """Samples drawn from the oracle with replacement, each number times 1 + `size` normal."""
    arrays = np.load(ORACLE)
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.from_numpy(arrays["probs"])
    n_classes = probabilities.shape[1]
    drawn = torch.randint(len(probabilities), (n_samples,), generator=generator)

    def shaken(part: Tensor) -> Tensor:
        return part[drawn] * (1 + size * torch.randn(part[drawn].shape, generator=generator))

    p = shaken(probabilities).abs()
    p /= p.sum(1, keepdim=True)
    # L_x^T = diag(sqrt p) (I - 1 p^T)
    coupling = p.sqrt()[:, :, None] * (torch.eye(n_classes) - p[:, None, :])
    middle, hidden = (shaken(torch.from_numpy(arrays[part])) for part in ("middle", "hidden"))
    name = f"{n_samples} drawn from the oracle's {len(probabilities)} and perturbed (seed {seed})"
    return Gradients(GradientFactors(middle, coupling, hidden), name)
