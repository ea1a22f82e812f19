"""Independent yes-or-no outputs (several labels a sample, or two classes by one logit).

For p = sigmoid(z), each output a Bernoulli variable of its own, the rows R of each sample satisfy

    R^T R = diag(p (1 - p))              (weighting "fisher")
    R^T R = diag(p^2 + (1 - p)^2)        (weighting "none": d log p(y_c) / dz_c is 1 - p_c and -p_c,
                                          both outcomes alike)

which is what categorical has for the two classes of the logits (z_c, 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.likelihoods.likelihood import check_options, check_vectors


@dataclass(frozen=True)
class Bernoulli:
    """Logits (N, C) of C labels that do not exclude each other, or (N,) of one."""

    name: str = "bernoulli"

    def check_options(self, weighting: str, rank: int | None) -> None:
        check_options(weighting, rank)

    def check_shape(self, shape: Sequence[int]) -> None:
        check_vectors(shape, self.name)

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        """Row c is the root of the c-th diagonal entry times e_c; with `rank` the largest alone."""
        z = outputs.double().reshape(len(outputs), -1)
        p, q = z.sigmoid(), (-z).sigmoid()
        scale = (p * q).sqrt() if weighting == "fisher" else torch.hypot(p, q)
        n_labels = z.shape[1]
        if rank is None or rank == n_labels:
            return torch.diag_embed(scale)
        if rank > n_labels:
            raise ValueError(f"rank must be at most the number of labels {n_labels}; got {rank}")
        largest, which = scale.topk(rank, dim=1)
        rows = z.new_zeros(len(z), rank, n_labels)
        return rows.scatter_(2, which[:, :, None], largest[:, :, None])

    def n_uniform(self, outputs: Tensor) -> int:
        return outputs[0].numel()

    def sampled_rows(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        """y - p for labels y drawn from p, all outputs in one row."""
        p = outputs.double().reshape(len(outputs), -1).sigmoid()
        return ((uniform.to(p) < p).to(p.dtype) - p)[:, None, :]

    def identity(self, samples: Iterable[Tensor]) -> str:
        return self.name
