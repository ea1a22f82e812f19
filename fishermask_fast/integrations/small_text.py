"""A query strategy for small-text (1.4): FisherMask, and BAIT with the mask on the head.

For a PyTorch classifier (KimCNN, transformers) V_x are the network's own masked gradients; for any
other, and where `embeddings` asks for it, those of a linear head on the features that the
classifier embeds or reads, V_x = L_x^T kron h_x (see embeddings.py). F_L is the mean over the
labeled samples, and the batch most lowers tr(M^-1 F).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import check_choice, check_integer, warn_ignored_of
from fishermask_fast.factors import factors_from_embeddings
from fishermask_fast.gradients import masked_gradients
from fishermask_fast.masks import FisherMask, check_size
from fishermask_fast.network import check_seed, predict
from fishermask_fast.selector import (
    MASKS,
    Aim,
    FisherMaskSelector,
    Labeled,
    Seen,
    Wishes,
    query_known,
    unread_options,
)

try:
    from small_text.query_strategies import QueryStrategy
except ImportError as error:
    raise ImportError(
        "fishermask_fast.integrations.small_text needs small-text 1.4: "
        "pip install 'small-text>=1.4,<1.5'"
    ) from error

Array = np.ndarray[Any, Any]
CHOOSE = "choose"  # a mask for these samples


class FisherMaskStrategy(QueryStrategy):  # type: ignore[misc]
    """FisherMask (Gul et al. 2024) for small-text's active learners, one label a text or several.

    With several (a classifier with `multi_label=True` on multi-label data) each label is a
    Bernoulli variable of its own; see `likelihood="bernoulli"` of `masked_gradients`.

    Args:
        fraction: share of a network's parameters that the mask keeps, in (0, 1].
        mask: how they are chosen; see FisherMaskSelector.
        keep_head: whether the mask keeps the whole head.
        head_entries: the most entries of a linear head on features that the mask keeps.
        embeddings: whether to take a linear head on the classifier's embeddings even where it has
            a network of its own.
        lamb: lambda > 0, or "auto"; None is the preset's.
        backward_steps: b: (1 + b) n are picked, then b n dropped again.
        fisher_samples: samples behind the mask of a network, drawn by `seed`.
        rank: rows a sample; None is exact.
        seed: of the samples behind the mask, and of a random mask.
        n_parameters: how many parameters the mask keeps, instead of a share; with neither see
            FisherMaskSelector.
        head: name of a network's head; None reads it from the logits.
        prior_precision: instead of lamb; see FisherMaskSelector, as for those that follow.
        criterion: "trace" or "logdet".
        rows: "all" or "top_class".
        eval_weights: "balanced", "uncovered", or a tensor of a weight for each unlabeled sample or
            each of the query's eval_data.
        class_weight: "balanced".
        max_per_cluster: how many of one of the query's `cluster_ids` may be picked.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

    Attributes:
        scores_: by how much each pick of the last query lowered tr(M^-1 F), in the order picked.

    Example:
        >>> import numpy as np
        >>> from small_text import (
        ...     ConfidenceEnhancedLinearSVC, PoolBasedActiveLearner,
        ...     SklearnClassifierFactory, SklearnDataset,
        ... )
        >>> from fishermask_fast.integrations.small_text import FisherMaskStrategy
        >>> features = np.random.default_rng(0).normal(size=(60, 4))
        >>> labels = (features[:, 0] > 0).astype(int)
        >>> dataset = SklearnDataset(features, labels, target_labels=np.arange(2))
        >>> factory = SklearnClassifierFactory(ConfidenceEnhancedLinearSVC(), 2)
        >>> learner = PoolBasedActiveLearner(factory, FisherMaskStrategy(lamb=0.1), dataset)
        >>> learner.initialize_data(np.arange(10), labels[:10])
        >>> len(learner.query(num_samples=5))
        5
    """

    def __init__(
        self,
        fraction: float | None = None,
        mask: str = "global",
        keep_head: bool = True,
        head_entries: int = 2000,
        embeddings: bool = False,
        lamb: float | str | None = None,
        backward_steps: int = 0,
        fisher_samples: int = 1024,
        rank: int | None = None,
        seed: int = 0,
        n_parameters: int | None = None,
        head: str | None = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        rows: str = "all",
        eval_weights: Any = None,
        class_weight: str | None = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
    ) -> None:
        self.fraction = fraction
        self.n_parameters = n_parameters
        self.mask = mask
        self.keep_head = keep_head
        self.head = head
        self.head_entries = head_entries
        self.embeddings = embeddings
        self.preset = preset
        self.lamb = lamb
        self.prior_precision = prior_precision
        self.criterion = criterion
        self.rows = rows
        self.eval_weights = eval_weights
        self.class_weight = class_weight
        self.max_per_cluster = max_per_cluster
        self.backward_steps = backward_steps
        self.fisher_samples = fisher_samples
        self.rank = rank
        self.seed = seed
        self.scores_: Array | None = None
        self._check_parameters()

    def query(
        self,
        clf: Any,
        dataset: Any,
        indices_unlabeled: Array,
        indices_labeled: Array,
        y: Array,
        n: int = 10,
        *,
        eval_data: Any = None,
        gain_weights: Any = None,
        pending: Any = None,
        exclude: Any = None,
        cluster_ids: Any = None,
    ) -> Array:
        """Picks n samples of the unlabeled pool.

        Args:
            clf: a fitted classifier.
            dataset: all samples.
            indices_unlabeled: of the samples to pick from.
            indices_labeled: of the labeled samples.
            y: their labels: a sparse matrix where texts have several; read for class_weight alone.
            n: how many to pick.
            eval_data: samples as `dataset` whose uncertainty is to fall, instead of that of the
                unlabeled and labeled ones. These options go through a learner's
                `query_strategy_kwargs`.
            gain_weights: factors on gains, one for each sample of `dataset`, such as 1 / cost.
            pending: indices into `dataset` of samples that are at the annotators: they are in M
                like picks, and are not picked.
            exclude: indices into `dataset` of samples that are not picked.
            cluster_ids: integers, one for each sample of `dataset`; with `max_per_cluster`.

        Returns:
            (n,) indices into `dataset`, in the order picked.

        Raises:
            EmptyPoolException, PoolExhaustedException: fewer than n unlabeled samples.
            TypeError: indices that are no integers.
            ValueError: indices outside the data, a classifier that was not fitted, one without
                features, or one for several labels where the data have one, or the other way round.
        """
        self._validate_query_input(indices_unlabeled, n)
        likelihood = _likelihood(clf, issparse(y))
        pool = _indices("indices_unlabeled", indices_unlabeled, len(dataset))
        labeled = _indices("indices_labeled", indices_labeled, len(dataset))
        aim = self._aim(likelihood)
        aim.check()
        aim.check_query(eval_data is not None)
        wishes = Wishes(gain_weights, pending, exclude, cluster_ids).among(
            pool, len(dataset), labeled
        )
        wishes.check(aim, n, len(pool))
        every = dataset[np.concatenate([pool, labeled])]
        seen, mask = self._seen(clf, every, likelihood)
        size, n_labeled = len(pool), len(labeled)
        known = Labeled(
            n_labeled,
            seen.factors[size:].fisher() if n_labeled else None,
            lambda: seen.features()[size:],
            y if self.class_weight is not None else None,
        )
        free = Seen(
            seen.factors[:size], lambda: seen.probabilities()[:size], lambda: seen.features()[:size]
        )
        aimed = None if eval_data is None else self._seen(clf, eval_data, likelihood, mask)[0]
        answer = query_known(aim, wishes, n, free, known, mean=seen.factors.fisher, eval_data=aimed)
        self.scores_ = answer.selection.scores.numpy()
        chosen: Array = pool[answer.selection.indices.numpy()]
        return chosen

    def _aim(self, likelihood: str) -> Aim:
        weights = as_tensor("eval_weights", self.eval_weights)
        return Aim.of(self, likelihood=likelihood, eval_weights=weights)

    def _seen(
        self, clf: Any, dataset: Any, likelihood: str, mask: Any = CHOOSE
    ) -> tuple[Seen, Any]:
        """Samples as the classifier sees them, and the mask that was chosen or given."""
        if hasattr(clf, "_create_collate_fn") and not self.embeddings:
            return self._seen_by_network(clf, dataset, likelihood, mask)
        probabilities = _probabilities(clf, dataset, likelihood)
        features = clf.embed(dataset) if hasattr(clf, "embed") else dataset.x
        if hasattr(features, "toarray"):
            features = features.toarray()
        features = np.asarray(features)
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise ValueError(
                f"{type(clf).__name__} has neither a network nor embeddings, and the dataset's x "
                "is no matrix of features"
            )
        if features.dtype.kind != "f":
            features = features.astype(np.float64)
        warn_ignored_of(
            self,
            ("fraction", "keep_head", "fisher_samples", "seed"),
            "entries of a head on features are chosen by head_entries",
        )
        if isinstance(mask, str):
            size = features.shape[1] * (probabilities.shape[1] if self.rows == "all" else 1)
            mask = size if self.mask == "head" else min(self.head_entries, size)
        factors = factors_from_embeddings(
            features, probabilities, likelihood=likelihood, mask=mask, rank=self.rank,
            rows=self.rows,
        )  # fmt: skip
        p, h = torch.from_numpy(probabilities), torch.from_numpy(features)
        return Seen(factors, lambda: p, lambda: h), factors.head_index

    def _seen_by_network(
        self, clf: Any, dataset: Any, likelihood: str, mask: Any
    ) -> tuple[Seen, FisherMask]:
        if getattr(clf, "model", None) is None:
            raise ValueError(f"{type(clf).__name__} was not fitted: it has no model yet")
        collate = clf._create_collate_fn()
        items: Any = list(dataset.data)
        samples: DataLoader[Any] = DataLoader(
            items,
            batch_size=clf.mini_batch_size,
            collate_fn=lambda items: _inputs(collate(items)),
        )
        if not isinstance(mask, FisherMask):
            mask = self._network_mask(clf.model, samples, likelihood)
        factors = masked_gradients(
            clf.model, samples, mask, likelihood=likelihood, rank=self.rank, rows=self.rows
        )
        return Seen(
            factors,
            lambda: torch.from_numpy(_probabilities(clf, dataset, likelihood)),
            lambda: predict(clf.model, samples, hidden=True, head=self.head)[1],
        ), mask

    def _network_mask(self, model: nn.Module, samples: Any, likelihood: str) -> FisherMask:
        warn_ignored_of(
            self,
            ("head_entries", *unread_options(self.mask)),
            f'the parameters of a network are chosen by mask="{self.mask}"',
        )
        selector = FisherMaskSelector(
            model,
            fraction=self.fraction,
            n_parameters=self.n_parameters,
            mask=self.mask,
            keep_head=self.keep_head,
            likelihood=likelihood,
            head=self.head,
            fisher_samples=self.fisher_samples,
            rank=self.rank,
            seed=self.seed,
        )
        return selector.make_mask(samples)

    def _check_parameters(self) -> None:
        check_size(self.fraction, self.n_parameters)
        check_choice("mask", self.mask, MASKS)
        for name in ("keep_head", "embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool; got {getattr(self, name)!r}")
        for name, minimum in (
            ("head_entries", 1),
            ("backward_steps", 0),
            ("fisher_samples", 1),
        ):
            check_integer(name, getattr(self, name), minimum)
        check_seed(self.seed)
        if self.rank is not None:
            check_integer("rank", self.rank, 1)
        self._aim("categorical").check()

    def __str__(self) -> str:
        size = (
            f"n_parameters={self.n_parameters}"
            if self.n_parameters
            else f"fraction={self.fraction}"
        )
        return f"{type(self).__name__}(mask={self.mask!r}, {size})"


def _probabilities(clf: Any, dataset: Any, likelihood: str) -> Array:
    """(n, C) float64, which sum to 1 where a sample has one class."""
    found = np.asarray(clf.predict_proba(dataset), dtype=np.float64)
    return found / found.sum(axis=1, keepdims=True) if likelihood == "categorical" else found


def _likelihood(clf: Any, several: bool) -> str:
    """What the classifier's outputs are of the labels; `several`: whether a text may have many."""
    if bool(getattr(clf, "multi_label", several)) != several:
        raise ValueError(
            f"the classifier must be made with multi_label={several}, as the labels are "
            f"{'several' if several else 'one'} a text; got multi_label={not several}"
        )
    return "bernoulli" if several else "categorical"


def _indices(name: str, value: Any, n: int) -> Array:
    """Indices of some of n samples, (m,) int64; an empty list is one of them.

    Raises:
        TypeError: they are no integers.
        ValueError: they are not in a row, or outside 0..n - 1.
    """
    index = np.asarray(value)
    if index.size == 0:
        return np.empty(0, dtype=np.int64)
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"{name} must hold integers; got {index.dtype}")
    if index.ndim != 1:
        raise ValueError(f"{name} must have one axis; got shape {index.shape}")
    outside = index[(index < 0) | (index >= n)]
    if len(outside):
        raise ValueError(f"{name} must be indices of {n} samples; got {outside[0]}")
    return index.astype(np.int64)


def _inputs(batch: tuple[Tensor, ...]) -> Tensor | dict[str, Tensor]:
    """What a model is called with: KimCNN batches hold text, transformers' a mask beside it."""
    text, *others = batch
    return {"input_ids": text, "attention_mask": others[0]} if len(others) == 3 else text
