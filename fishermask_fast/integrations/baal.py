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
from fishermask_fast.checks import check_integer
from fishermask_fast.engine import scores_along
from fishermask_fast.factors import GradientFactors, factors_from_embeddings
from fishermask_fast.selector import (
    Aim,
    Labeled,
    Seen,
    Wishes,
    check_labels,
    query_known,
)

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
    what each would still bring, and last, with a score of minus infinity, those that may not be
    picked. Iterations of stochastic models are averaged.

    Args:
        query_size: K, the loop's own query size: M depends on it.
        labeled_fisher: (k, k) F_L; None while nothing is labeled.
        n_labeled: n_L, how many samples are labeled.
        mask: None for the whole head; or positions in it, or how many entries to keep, as in
            `factors_from_embeddings`. With a `labeled_fisher` give the positions it was made with.
        lamb: lambda > 0, or "auto"; None is the preset's.
        backward_steps: b: (1 + b) K are picked, then b K dropped again; 1 is BAIT's.
        rank: rows a sample; None is exact.
        prior_precision: instead of lamb; see FisherMaskSelector, as for all that follow.
        criterion: "trace" or "logdet".
        rows: "all" or "top_class".
        eval_data: predictions, as `labeled_fisher` takes them, on samples whose uncertainty is to
            fall instead of the pool's.
        eval_weights: of these samples: "balanced", "uncovered" (with `labeled_embeddings`), or a
            tensor.
        labeled_embeddings: (n_L, d) of the labeled samples.
        class_weight: "balanced", with `labels`.
        labels: (n_L,) classes of the labeled samples.
        gain_weights: (N,) of the pool that is ranked.
        pending: places in that pool.
        exclude: places in that pool.
        cluster_ids: (N,) of that pool.
        max_per_cluster: how many of a cluster the batch may hold.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

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
        lamb: float | str | None = None,
        backward_steps: int = 0,
        rank: int | None = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        rows: str = "all",
        eval_data: Any = None,
        eval_weights: str | Tensor | None = None,
        labeled_embeddings: Tensor | Array | None = None,
        class_weight: str | None = None,
        labels: Any = None,
        gain_weights: Any = None,
        pending: Any = None,
        exclude: Any = None,
        cluster_ids: Any = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
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
        self.backward_steps = check_integer("backward_steps", backward_steps, 0)
        self.rank = None if rank is None else check_integer("rank", rank, 1)
        self.rows = rows
        self.aim = Aim.filled(
            preset=preset,
            rank=self.rank,
            rows=rows,
            lamb=lamb,
            prior_precision=prior_precision,
            criterion=criterion,
            eval_weights=eval_weights,
            class_weight=class_weight,
            max_per_cluster=max_per_cluster,
            backward_steps=self.backward_steps,
        )
        self.aim.check()
        self.aim.check_query(eval_data is not None)
        self.eval_data = eval_data
        self.labeled_embeddings = labeled_embeddings
        self.labels = labels if labels is None else check_labels(labels, self.n_labeled)
        self.wishes = Wishes(gain_weights, pending, exclude, cluster_ids)
        uncovered = isinstance(eval_weights, str) and eval_weights == "uncovered"
        if uncovered and labeled_embeddings is None and self.n_labeled:
            raise ValueError("eval_weights='uncovered' needs labeled_embeddings, (n_labeled, d)")
        if class_weight is not None and labels is None and self.n_labeled:
            raise ValueError("class_weight='balanced' needs labels, (n_labeled,)")

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
        pool = self._seen(predictions, self.mask)
        factors = pool.factors
        n = len(factors)
        aimed = None
        if self.eval_data is not None:
            positions = None if self.mask is None else factors.head_index
            aimed = self._seen(self.eval_data, positions, "eval_data")
        known = Labeled(self.n_labeled, self._labeled(factors), self._known_inputs, self.labels)
        free = self.wishes.room(self.aim, n)
        answer = query_known(
            self.aim, self.wishes, min(self.query_size, max(free, 1)), pool, known, eval_data=aimed
        )
        picks = answer.selection.indices
        *_, scores = scores_along(
            factors,
            picks.tolist(),
            answer.fisher,
            known.fisher,
            lamb=self.aim.lamb,
            n_labeled=self.n_labeled,
            prior_precision=self.aim.prior_precision,
            criterion=self.aim.criterion,
            pending=self.wishes.pending,
        )
        if answer.gains is not None:
            scores *= answer.gains
        scores[self.wishes.closed(self.aim, n, picks.tolist())] = -torch.inf
        rest = torch.ones(n, dtype=torch.bool)
        rest[picks] = False
        others = rest.nonzero().squeeze(1)
        others = others[scores[others].argsort(descending=True, stable=True)]
        scores[picks] = answer.selection.scores
        return torch.cat([picks, others]).numpy(), scores.numpy()

    def _seen(self, predictions: Any, mask: Any, name: str = "predictions") -> Seen:
        probabilities, embeddings = _two_kinds(predictions, name)
        p = to_prob(probabilities)
        factors = factors_from_embeddings(embeddings, p, mask=mask, rank=self.rank, rows=self.rows)
        return Seen(factors, lambda: torch.as_tensor(p), lambda: torch.as_tensor(embeddings))

    def _known_inputs(self) -> Tensor:
        return torch.as_tensor(as_tensor("labeled_embeddings", self.labeled_embeddings))

    def _labeled(self, factors: GradientFactors) -> Tensor | None:
        """F_L, checked against the head's entries."""
        if self.labeled_fisher is None:
            return None
        found = as_tensor("labeled_fisher", self.labeled_fisher)
        if not isinstance(found, Tensor):
            raise TypeError(
                f"labeled_fisher must be a Tensor or an array; got {type(found).__name__}"
            )
        k = factors.n_columns
        if found.shape != (k, k):
            raise ValueError(
                f"labeled_fisher must have shape {(k, k)}, as the head's masked entries; got "
                f"{tuple(found.shape)}"
            )
        return found if found.is_meta else found.double().cpu()

    def get_uncertainties(self, predictions: Any, target_predictions: Any = None) -> Array:
        """As `compute_score`."""
        return self.get_ranks(predictions)[1]

    def get_uncertainties_generator(
        self, predictions: Any, target_predictions: Any = None
    ) -> Array:
        """As `compute_score`, of all batches together."""
        return self.get_ranks(predictions)[1]


def labeled_fisher(
    predictions: Any,
    *,
    mask: Tensor | Array | None = None,
    rank: int | None = None,
    rows: str = "all",
) -> Tensor:
    """F_L, (k, k) float64, from predictions on the labeled samples.

    Args:
        predictions: as baal gives them: [logits or probabilities (N, C, ...), embeddings
            (N, d, ...)], or a generator of such batches.
        mask: positions in the head, or None for all of it.
        rank: rows a sample; None is exact.
        rows: "all" or "top_class", as the heuristic's.

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
    return _factors(predictions, mask, rank, rows).fisher()


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


def _factors(predictions: Any, mask: Any, rank: int | None, rows: str = "all") -> GradientFactors:
    probabilities, embeddings = _two_kinds(predictions)
    p = to_prob(probabilities)
    return factors_from_embeddings(embeddings, p, mask=mask, rank=rank, rows=rows)


def _two_kinds(predictions: Any, name: str = "predictions") -> tuple[Array, Array]:
    """(N, C) logits or probabilities and (N, d) embeddings, means over iterations."""
    if isinstance(predictions, Iterator):
        batches = list(predictions)
        if all(isinstance(batch, Sequence) and len(batch) == 2 for batch in batches):
            predictions = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    if not isinstance(predictions, Sequence) or len(predictions) != 2:
        raise ValueError(
            f"{name} must be [logits or probabilities (N, C, ...), embeddings (N, d, ...)], "
            "as a model that returns (logits, embeddings) gives them"
        )
    first, second = (_mean(np.asarray(part), name) for part in predictions)
    return first, second


def _mean(array: Array, name: str) -> Array:
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numbers; got {array.dtype}")
    if array.ndim < 2:
        raise ValueError(f"{name} must have shape (N, ..., iterations); got {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must be of one sample or more; got shape {array.shape}")
    return array.mean(axis=-1) if array.ndim > 2 else array
