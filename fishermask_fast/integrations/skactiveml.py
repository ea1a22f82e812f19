"""Query strategies for scikit-activeml (1.0): FisherMask and BAIT.

Both pick the batch that most lowers tr(M^-1 F) (see selection.py). F is the mean of V_x^T V_x over
the labeled samples and those without a label, F_L over the labeled. V_x comes from a
skorch-wrapped module's own gradients, or from embeddings h and probabilities p as those of a linear
head, V_x = L_x^T kron h_x (see embeddings.py).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fishermask_fast.checks import check_choice, check_integer, warn_ignored_of
from fishermask_fast.factors import GradientFactors, factors_from_embeddings
from fishermask_fast.integrations.skactiveml_queries import Array, FisherQuery
from fishermask_fast.masks import FisherMask, check_size
from fishermask_fast.selector import MASKS, FisherMaskSelector, unread_options

try:
    from skactiveml.utils import MISSING_LABEL, check_scalar
except ImportError as error:
    raise ImportError(
        "fishermask_fast.integrations.skactiveml needs scikit-activeml 1.0: "
        "pip install 'scikit-activeml>=1.0,<1.1' skorch"
    ) from error


class BaitQuery(FisherQuery):
    """BAIT (Ash et al. 2021): the gradients of the head, oversampled and pruned.

    Args:
        clf_embedding_flag_name: how `predict_proba` is asked for embeddings: None, the name of a
            flag that is set to True, or a dict of keyword arguments. It then returns
            (probabilities, embeddings).
        lamb: lambda > 0, or "auto"; None is the preset's.
        backward_steps: b: (1 + b) batches are picked, then b batches dropped again.
        rank: rows a sample; None is exact; see `factors_from_embeddings`.
        bias: whether the head on the embeddings has a bias. A module's own head knows.
        missing_label: the label of a sample without one.
        random_state: accepted for the framework's sake: nothing here is random.
        prior_precision: instead of lamb; see FisherMaskSelector, as for those that follow.
        criterion: "trace" or "logdet".
        rows: "all" or "top_class".
        eval_weights: "balanced", "uncovered", or (n_eval,) or (n_candidates,) weights.
        class_weight: "balanced".
        max_per_cluster: how many of one of the query's `cluster_ids` may be picked.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

    Example:
        >>> import numpy as np
        >>> from skactiveml.classifier import SklearnClassifier
        >>> from sklearn.linear_model import LogisticRegression
        >>> from fishermask_fast.integrations.skactiveml import BaitQuery
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = np.full(60, np.nan)
        >>> y[:10] = X[:10, 0] > 0
        >>> classifier = SklearnClassifier(LogisticRegression(), classes=[0, 1])
        >>> BaitQuery(lamb=0.1).query(X, y, classifier, batch_size=5).shape
        (5,)
    """

    def __init__(
        self,
        clf_embedding_flag_name: Any = None,
        lamb: float | str | None = None,
        backward_steps: int = 1,
        rank: int | None = None,
        bias: bool = False,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        rows: str = "all",
        eval_weights: Any = None,
        class_weight: str | None = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
    ) -> None:
        super().__init__(
            clf_embedding_flag_name, lamb, backward_steps, rank, bias, missing_label, random_state,
            prior_precision, criterion, rows, eval_weights, class_weight, max_per_cluster,
            preset,
        )  # fmt: skip

    def _module_mask(self, module: nn.Module, samples: Tensor) -> FisherMask:
        warn_ignored_of(self, ("bias",), "a module's own head is read, with its bias or without")
        return FisherMask.head(module, inputs=samples[:1])

    def _head_factors(self, embeddings: Array, probabilities: Array, mask: Any) -> GradientFactors:
        return factors_from_embeddings(
            embeddings, probabilities, rank=self.rank, bias=self.bias, rows=self.rows
        )


class FisherMaskQuery(FisherQuery):
    """FisherMask (Gul et al. 2024): the gradients of the parameters with the most information.

    Args:
        clf_embedding_flag_name: see BaitQuery.
        fraction: share of a module's parameters that the mask keeps, in (0, 1].
        mask: how they are chosen; see FisherMaskSelector.
        keep_head: whether the mask keeps the whole head.
        head_entries: the most entries of a linear head on embeddings that the mask keeps.
        fisher_samples: samples behind the mask of a module, drawn by `random_state`.
        lamb: lambda > 0, or "auto"; None is the preset's.
        backward_steps: see BaitQuery.
        rank: see BaitQuery.
        bias: see BaitQuery.
        missing_label: the label of a sample without one.
        random_state: of the samples behind the mask, and of a random mask.
        n_parameters: how many parameters the mask keeps, instead of a share; with neither see
            FisherMaskSelector.
        head: name of a module's head; None reads it from the logits.
        prior_precision: see BaitQuery, as for those that follow.
        criterion: see BaitQuery.
        rows: see BaitQuery.
        eval_weights: see BaitQuery.
        class_weight: see BaitQuery.
        max_per_cluster: see BaitQuery.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

    Example:
        >>> import numpy as np
        >>> from skactiveml.classifier import SklearnClassifier
        >>> from sklearn.linear_model import LogisticRegression
        >>> from fishermask_fast.integrations.skactiveml import FisherMaskQuery
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = np.full(60, np.nan)
        >>> y[:10] = X[:10, 0] > 0
        >>> classifier = SklearnClassifier(LogisticRegression(), classes=[0, 1])
        >>> FisherMaskQuery(head_entries=4).query(X, y, classifier, batch_size=5).shape
        (5,)
    """

    def __init__(
        self,
        clf_embedding_flag_name: Any = None,
        fraction: float | None = None,
        mask: str = "global",
        keep_head: bool = True,
        head_entries: int = 2000,
        fisher_samples: int = 1024,
        lamb: float | str | None = None,
        backward_steps: int = 0,
        rank: int | None = None,
        bias: bool = False,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
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
        self.fisher_samples = fisher_samples
        super().__init__(
            clf_embedding_flag_name, lamb, backward_steps, rank, bias, missing_label, random_state,
            prior_precision, criterion, rows, eval_weights, class_weight, max_per_cluster,
            preset,
        )  # fmt: skip

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_size(self.fraction, self.n_parameters)
        check_choice("mask", self.mask, MASKS)
        check_scalar(self.keep_head, "keep_head", bool)
        if self.head is not None:
            check_scalar(self.head, "head", str)
        check_integer("head_entries", self.head_entries, 1)
        check_integer("fisher_samples", self.fisher_samples, 1)

    def _module_mask(self, module: nn.Module, samples: Tensor) -> FisherMask:
        unread = unread_options(self.mask)
        warn_ignored_of(
            self,
            ("head_entries", "bias", *(name for name in unread if name != "seed")),
            f'the parameters of a module are chosen by mask="{self.mask}"',
        )
        selector = FisherMaskSelector(
            module,
            fraction=self.fraction,
            n_parameters=self.n_parameters,
            mask=self.mask,
            keep_head=self.keep_head,
            likelihood=self._likelihood,
            head=self.head,
            fisher_samples=self.fisher_samples,
            rank=self.rank,
            seed=int(self.random_state_.randint(2**31 - 1)),
        )
        return selector.make_mask(samples)

    def _head_factors(self, embeddings: Array, probabilities: Array, mask: Any) -> GradientFactors:
        warn_ignored_of(
            self,
            ("fraction", "mask", "keep_head", "fisher_samples"),
            "entries of a head on embeddings are chosen by head_entries",
        )
        size = embeddings.shape[1] + self.bias
        if self.rows == "all":
            size *= probabilities.shape[1]
        return factors_from_embeddings(
            embeddings,
            probabilities,
            mask=min(self.head_entries, size) if isinstance(mask, str) else mask,
            rank=self.rank,
            bias=self.bias,
            rows=self.rows,
        )
