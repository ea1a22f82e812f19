"""Weights of samples: whose uncertainty is to fall, and whose class is scarce.

    balanced    w_x = sum_c p_c(x) / mean p_c                each class alike, by the model's word
    uncovered   w_x = 1 - exp(-(d_x / h)^2)                  what labeled samples leave uncovered
    scarce      w_x = (sum_c p_c(x) / n_c)^0.5               a gain's factor; n_c labeled of class c

d_x is the distance to the nearest labeled sample, h the median distance of a sample to its fifth
neighbour. The first two are for `fisher(weights=)`, the last for `gain_weights=`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NEIGHBOUR = 5
_CHUNK_NUMBERS = 2**22


@torch.no_grad()
def balanced_weights(probabilities: Tensor, mean: Tensor | None = None) -> Tensor:
    """Weights by which each class counts alike.

    Args:
        probabilities: (N, C) of the classes.
        mean: (C,) of each over all samples, where these are some of them; None for their own.

    Returns:
        (N,) float64. A class of which no sample has any probability counts for none.
    """
    p = _matrix("probabilities", probabilities)
    mean = p.mean(0) if mean is None else mean.double()
    return (p / torch.where(mean > 0, mean, 1.0)).sum(1)


@torch.no_grad()
def uncovered_weights(features: Tensor, labeled: Tensor) -> Tensor:
    """Weights of what labeled samples leave uncovered.

    Args:
        features: (N, d) of the samples, such as the head's inputs.
        labeled: (n_L, d) of the labeled ones; with none all weigh 1.

    Returns:
        (N,) float64. A sample's fifth neighbour is the fifth nearest of the others, the furthest
        where there are fewer.

    Raises:
        ValueError: more than half of the samples are copies, so that h is 0.
    """
    x, known = _matrix("features", features), _matrix("labeled", labeled)
    if x.shape[1] != known.shape[1] and len(known):
        raise ValueError(f"labeled must have features' {x.shape[1]} columns; got {known.shape[1]}")
    if not len(known) or not len(x):
        return torch.ones(len(x), dtype=torch.float64, device=x.device)
    nearest, fifth = [], []
    size = max(1, _CHUNK_NUMBERS // max(len(x), len(known)))
    for some in x.split(size):
        nearest.append(_distances(some, known).min(1).values)
        # The nearest of all is the sample itself.
        rank = min(_NEIGHBOUR + 1, len(x))
        fifth.append(_distances(some, x).kthvalue(rank, 1).values)
    h = torch.cat(fifth).quantile(0.5, interpolation="lower")
    if not float(h) > 0:
        raise ValueError("features must tell samples apart: half of them have five copies")
    return -torch.expm1(-((torch.cat(nearest) / h) ** 2))


@torch.no_grad()
def scarce_class_weights(probabilities: Tensor, counts: Tensor) -> Tensor:
    """Factors on gains that favour the classes of few labels.

    Args:
        probabilities: (N, C) of the classes.
        counts: (C,) labeled samples of each; one where there is none.

    Returns:
        (N,) float64.
    """
    p = _matrix("probabilities", probabilities)
    if tuple(counts.shape) != (p.shape[1],):
        raise ValueError(
            f"counts must have shape ({p.shape[1]},), one a class; got {tuple(counts.shape)}"
        )
    return (p / counts.to(p).clamp(min=1)).sum(1).sqrt()


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # By differences: products would lose the distances of near copies.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _matrix(name: str, given: object) -> Tensor:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a Tensor of two axes; got {type(given).__name__}")
    if given.ndim != 2:
        raise ValueError(f"{name} must have two axes; got shape {tuple(given.shape)}")
    return given.double()
