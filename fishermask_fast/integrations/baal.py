"""A heuristic for baal (2.1): BAIT, or FisherMask on a linear head.

A model that returns (logits, embeddings) gives baal's loop predictions [(N, C, ...), (N, d, ...)];
from these come V_x = L_x^T kron h_x (see embeddings.py), and the batch that most lowers tr(M^-1 F).
What is known of the labeled samples comes through the constructor as F_L, which
`labeled_fisher` makes from predictions on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import check_integer, check_positive
from fishermask_fast.engine import scores_along
from fishermask_fast.factors import GradientFactors, factors_from_embeddings
from fishermask_fast.selection import select_batch

try:
    from baal.active.heuristics import AbstractHeuristic
    from baal.utils.array_utils import to_prob
except ImportError as error:
    raise ImportError(
        "fishermask_fast.integrations.baal needs baal 2.1: pip install 'baal>=2.1,<2.2'"
    ) from error

Array = np.ndarray[Any, Any]


class FisherMaskHeuristic(AbstractHeuristic):  # type: ignore[misc]
    """Ranks a pool by the greedy batch that most lowers tr(M^-1 F).

    The first `query_size` of the ranking are the batch, in the order picked; the others follow by
    what each would still bring. Iterations of stochastic models are averaged.

    Args:
        query_size: K, the loop's own query size: M depends on it.
        labeled_fisher: (k, k) F_L; None while nothing is labeled.
        n_labeled: n_L, how many samples are labeled.
        mask: None for the whole head; or positions in it, or how many entries to keep, as in
            `factors_from_embeddings`. With a `labeled_fisher` give the positions it was made with.
        lamb: lambda > 0.
        backward_steps: b: (1 + b) K are picked, then b K dropped again; 1 is BAIT's.
        rank: rows a sample; None is exact.

    Raises:
        TypeError, ValueError: a parameter that cannot be.

    Example:
        >>> import numpy as np
        >>> from fishermask_fast.integrations.baal import FisherMaskHeuristic
        >>> dice = np.random.default_rng(0)
        >>> predictions = [dice.normal(size=(30, 3)), dice.normal(size=(30, 6))]
        >>> FisherMaskHeuristic(query_size=5)(predictions).shape  # a ranking of the pool
        (30,)
    """

    def __init__(
        self,
        query_size: int,
        labeled_fisher: Tensor | Array | None = None,
        n_labeled: int = 0,
        *,
        mask: int | Tensor | Array | None = None,
        lamb: float = 1.0,
        backward_steps: int = 0,
        rank: int | None = None,
    ) -> None:
        super().__init__(reverse=True)
        self.query_size = check_integer("query_size", query_size, 1)
        self.n_labeled = check_integer("n_labeled", n_labeled, 0)
        if (labeled_fisher is None) != (self.n_labeled == 0):
            raise ValueError(
                "labeled_fisher and n_labeled belong together: give both, or neither while "
                f"nothing is labeled; got n_labeled={n_labeled}"
            )
        if labeled_fisher is not None and mask is not None and np.ndim(mask) == 0:
            raise ValueError(
                "with a labeled_fisher mask must be the positions it was made with; got a number"
            )
        self.labeled_fisher = labeled_fisher
        self.mask = mask
        self.lamb = check_positive("lamb", lamb)
        self.backward_steps = check_integer("backward_steps", backward_steps, 0)
        self.rank = None if rank is None else check_integer("rank", rank, 1)

    def compute_score(self, predictions: Any, target_predictions: Any = None) -> Array:
        """What each sample would bring after the batch, and each of the batch when picked.

        Args:
            predictions: logits or probabilities (N, C, ...) and embeddings (N, d, ...).
            target_predictions: not read.

        Returns:
            (N,) float64.
        """
        return self.get_ranks(predictions)[1]

    def get_ranks(self, predictions: Any, target_predictions: Any = None) -> tuple[Array, Array]:
        """The ranking of the pool, and what `compute_score` says of each.

        Raises:
            ValueError: no predictions, or not of two kinds.
        """
        factors = _factors(predictions, self.mask, self.rank)
        labeled_fisher = self.labeled_fisher
        if labeled_fisher is not None:
            labeled_fisher = as_tensor("labeled_fisher", labeled_fisher)
            if not isinstance(labeled_fisher, Tensor):
                raise TypeError(
                    "labeled_fisher must be a Tensor or an array; got "
                    f"{type(labeled_fisher).__name__}"
                )
            if not labeled_fisher.is_meta:
                labeled_fisher = labeled_fisher.double().cpu()
        n, n_select = len(factors), min(self.query_size, len(factors))
        fisher = factors.fisher()
        if labeled_fisher is not None:
            share = self.n_labeled / (self.n_labeled + n)
            if labeled_fisher.shape != fisher.shape:
                raise ValueError(
                    f"labeled_fisher must have shape {tuple(fisher.shape)}, as the head's masked "
                    f"entries; got {tuple(labeled_fisher.shape)}"
                )
            fisher = torch.lerp(fisher, labeled_fisher, share)
        selection = select_batch(
            factors,
            n_select,
            fisher,
            labeled_fisher,
            lamb=self.lamb,
            n_labeled=self.n_labeled,
            backward_steps=self.backward_steps,
        )
        picks = selection.indices
        *_, scores = scores_along(
            factors,
            picks.tolist(),
            fisher,
            labeled_fisher,
            lamb=self.lamb,
            n_labeled=self.n_labeled,
        )
        rest = torch.ones(n, dtype=torch.bool)
        rest[picks] = False
        others = rest.nonzero().squeeze(1)
        others = others[scores[others].argsort(descending=True, stable=True)]
        scores[picks] = selection.scores
        return torch.cat([picks, others]).numpy(), scores.numpy()

    def get_uncertainties(self, predictions: Any, target_predictions: Any = None) -> Array:
        """As `compute_score`."""
        return self.get_ranks(predictions)[1]

    def get_uncertainties_generator(
        self, predictions: Any, target_predictions: Any = None
    ) -> Array:
        """As `compute_score`, of all batches together."""
        return self.get_ranks(predictions)[1]


def labeled_fisher(
    predictions: Any, *, mask: Tensor | Array | None = None, rank: int | None = None
) -> Tensor:
    """F_L, (k, k) float64, from predictions on the labeled samples.

    Args:
        predictions: as baal gives them: [logits or probabilities (N, C, ...), embeddings
            (N, d, ...)], or a generator of such batches.
        mask: positions in the head, or None for all of it.
        rank: rows a sample; None is exact.

    Raises:
        ValueError: no predictions, or not of two kinds.

    Example:
        >>> import numpy as np
        >>> from fishermask_fast.integrations.baal import labeled_fisher
        >>> dice = np.random.default_rng(0)
        >>> predictions = [dice.normal(size=(30, 3)), dice.normal(size=(30, 6))]
        >>> labeled_fisher(predictions).shape
        torch.Size([18, 18])
    """
    return _factors(predictions, mask, rank).fisher()


def head_mask(predictions: Any, n_entries: int) -> Tensor:
    """Positions of the `n_entries` head entries with the largest Fisher diagonal, sorted.

    Raises:
        ValueError: no predictions, or not of two kinds.

    Example:
        >>> import numpy as np
        >>> from fishermask_fast.integrations.baal import head_mask
        >>> dice = np.random.default_rng(0)
        >>> predictions = [dice.normal(size=(30, 3)), dice.normal(size=(30, 6))]
        >>> len(head_mask(predictions, 10))
        10
    """
    factors = _factors(predictions, check_integer("n_entries", n_entries, 1), 1)
    index = factors.head_index
    return torch.arange(factors.n_columns) if index is None else index


def _factors(predictions: Any, mask: Any, rank: int | None) -> GradientFactors:
    probabilities, embeddings = _two_kinds(predictions)
    return factors_from_embeddings(embeddings, to_prob(probabilities), mask=mask, rank=rank)


def _two_kinds(predictions: Any) -> tuple[Array, Array]:
    """(N, C) logits or probabilities and (N, d) embeddings, means over iterations."""
    if isinstance(predictions, Iterator):
        batches = list(predictions)
        if all(isinstance(batch, Sequence) and len(batch) == 2 for batch in batches):
            predictions = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    if not isinstance(predictions, Sequence) or len(predictions) != 2:
        raise ValueError(
            "predictions must be [logits or probabilities (N, C, ...), embeddings (N, d, ...)], "
            "as a model that returns (logits, embeddings) gives them"
        )
    first, second = (_mean(np.asarray(part)) for part in predictions)
    return first, second


def _mean(array: Array) -> Array:
    if array.dtype.kind not in "fiub":
        raise TypeError(f"predictions must be numbers; got {array.dtype}")
    if array.ndim < 2:
        raise ValueError(f"predictions must have shape (N, ..., iterations); got {array.shape}")
    if not array.size:
        raise ValueError(f"predictions must be of one sample or more; got shape {array.shape}")
    return array.mean(axis=-1) if array.ndim > 2 else array
