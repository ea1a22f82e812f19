"""One row a sample for the likeliest class against the rest: an approximation, asked for by name.

With q the largest probability and z = log(q / (1 - q)),

    R = sqrt(q (1 - q)) dz / dlogits,   dz / dlogits = e_top - sum_{c != top} p_c / (1 - q) e_c

so that R^T R is the Fisher matrix of the one answer whether the likeliest class is right (the
binary form of Huseljic et al. 2024, "Fast Fishing").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fishermask_fast.checks import check_choice
from fishermask_fast.likelihoods.categorical import Categorical
from fishermask_fast.likelihoods.likelihood import Likelihood
from fishermask_fast.likelihoods.names import likelihood_of

ROWS = ("all", "top_class")


@dataclass(frozen=True)
class TopClass(Categorical):
    """Logits (N, C), of whose Fisher matrix one row stands for all."""

    def make_rows(
        self, outputs: Tensor, weighting: str = "fisher", rank: int | None = None
    ) -> Tensor:
        return make_rows(outputs)

    def identity(self, samples: Iterable[Tensor]) -> str:
        return f"{self.name}:top_class"


def make_rows(logits: Tensor) -> Tensor:
    """The row of every sample, (N, 1, C) in float64; of equal logits the lowest class is likeliest.

    Args:
        logits: (N, C), any floating dtype.
    """
    log_p = logits.double().log_softmax(1)
    top = log_p.argmax(1, keepdim=True)
    rest = log_p.scatter(1, top, -torch.inf)
    log_left = rest.logsumexp(1, keepdim=True)  # 1 - q keeps its digits where q is 1
    # Where nothing is left there is no doubt, and the row is zero.
    rows = -(rest - log_left).exp().nan_to_num(nan=0.0).scatter(1, top, -1.0)
    scale = (0.5 * (log_p.gather(1, top) + log_left)).exp()
    return (scale * rows)[:, None, :]


def likelihood_with(given: object, rows: object) -> Likelihood:
    """The likelihood of an argument `likelihood=` with the rows of an argument `rows=`.

    Raises:
        TypeError: as likelihood_of.
        ValueError: as likelihood_of; other rows than ROWS, or "top_class" where labels are not one
            of several classes.
    """
    found = likelihood_of(given)
    if check_choice("rows", rows, ROWS) == "all":
        return found
    if type(found) not in (Categorical, TopClass):
        raise ValueError(
            f"rows='top_class' is for likelihood 'categorical'; got likelihood {found.name!r}"
        )
    return TopClass()


def check_rows(rows: str, weighting: str, rank: int | None) -> None:
    """Raise where one row a sample is asked for together with other rows.

    Raises:
        ValueError: names both.
    """
    if check_choice("rows", rows, ROWS) == "all":
        return
    if rank is not None:
        raise ValueError(f"rows={rows!r} gives one row a sample: leave out rank; got {rank}")
    if weighting != "fisher":
        raise ValueError(f"rows={rows!r} is for weighting 'fisher'; got {weighting!r}")
