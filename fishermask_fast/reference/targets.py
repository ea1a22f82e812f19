"""Whose uncertainty is to fall, at what prior, and which rows say so."""

from __future__ import annotations

import torch
from torch import Tensor


def auto_prior(fisher: Tensor, in_sums: bool = False) -> float:
    """What "auto" is: lamb = 0.1 tr(F) / k; in sums, prior_precision = tr(F) / k, one sample's.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.auto_prior(4 * torch.eye(3)), reference.auto_prior(torch.eye(3), True)
        (0.4, 1.0)
    """
    return float(fisher.trace()) / fisher.shape[0] * (1.0 if in_sums else 0.1)


def target_fisher(gradients: Tensor, weights: Tensor) -> Tensor:  # (N, r, k), (N,)
    """F = sum_x w_x V_x^T V_x / sum_x w_x, the samples whose uncertainty is to fall.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> v = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> reference.target_fisher(v, torch.tensor([3.0, 1.0])).diagonal().tolist()
        [0.75, 1.0]
    """
    total = torch.einsum("n,nrk,nrl->kl", weights.to(gradients), gradients, gradients)
    return total / weights.sum().to(gradients)


def balanced_weights(probabilities: Tensor) -> Tensor:  # (N, C)
    """w_x = sum_c p_c(x) / mean p_c, by which each class counts alike.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.balanced_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
        [1.5, 1.5, 3.0]
    """
    return (probabilities / probabilities.mean(0)).sum(1)


def uncovered_weights(features: Tensor, labeled: Tensor) -> Tensor:  # (N, d), (n_L, d)
    """w_x = 1 - exp(-(d_x / h)^2), (N,); 1 where nothing is labeled.

    d_x is the distance to the nearest labeled sample, h the median over the N samples of the
    distance to the fifth nearest of the others (the furthest, where there are fewer).

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> [round(w, 4) for w in reference.uncovered_weights(x, x[:1]).tolist()]
        [0.0, 0.6321]
    """
    if not len(labeled):
        return torch.ones(len(features), dtype=features.dtype)
    nearest = torch.stack([(labeled - x).norm(dim=1).min() for x in features])
    fifth = []
    for at, x in enumerate(features):
        others = torch.cat([features[:at], features[at + 1 :]])
        distances = (others - x).norm(dim=1).sort().values
        fifth.append(distances[min(4, len(distances) - 1)])
    return 1 - torch.exp(-((nearest / torch.stack(fifth).median()) ** 2))


def class_weights(probabilities: Tensor, counts: Tensor) -> Tensor:  # (N, C), (C,)
    """w_x = (sum_c p_c(x) / n_c)^0.5 with n_c >= 1 the labeled samples of class c.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.class_weights(torch.eye(2), torch.tensor([4.0, 0.0])).tolist()
        [0.5, 1.0]
    """
    return (probabilities / counts.clamp(min=1)).sum(1).sqrt()


def top_class_rows(logits: Tensor) -> Tensor:  # (N, C)
    """R (N, 1, C), the row of the likeliest class against the rest: sqrt(q (1 - q)) dz / dlogits.

    q is its probability and z = log(q / (1 - q)), so that R^T R is the Fisher matrix of that one
    answer, yes or no; ties go to the lowest class.

    Example:
        >>> import torch
        >>> from fishermask_fast import reference
        >>> reference.top_class_rows(torch.zeros(1, 2)).tolist()
        [[[0.5, -0.5]]]
    """
    p = logits.softmax(1)
    top = torch.nn.functional.one_hot(logits.argmax(1), p.shape[1]).bool()
    q = p[top]
    others = p.masked_fill(top, 0.0) / (1 - q)[:, None]
    return ((q * (1 - q)).sqrt()[:, None] * (top.to(p) - others))[:, None]
