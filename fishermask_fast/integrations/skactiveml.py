"""Query strategies for scikit-activeml (1.0): FisherMask and BAIT.

Both pick the batch that most lowers tr(M^-1 F) (see selection.py). F is the mean of V_x^T V_x over
the labeled samples and those without a label, F_L over the labeled. V_x comes from a
skorch-wrapped module's own gradients, or from embeddings h and probabilities p as those of a linear
head, V_x = L_x^T kron h_x (see embeddings.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import check_integer, check_positive, warn_ignored_of
from fishermask_fast.engine import scores_along
from fishermask_fast.factors import GradientFactors, factors_from_embeddings
from fishermask_fast.gradients import masked_gradients
from fishermask_fast.masks import FisherMask, check_size
from fishermask_fast.selection import select_batch
from fishermask_fast.selector import MASKS, FisherMaskSelector, unread_options

try:
    from skactiveml.base import (
        SingleAnnotatorPoolQueryStrategy,
        SkactivemlClassifier,
        SkorchMixin,
    )
    from skactiveml.utils import (
        MISSING_LABEL,
        check_equal_missing_label,
        check_scalar,
        check_type,
        is_labeled,
    )
    from sklearn.base import clone

    from fishermask_fast.integrations.skactiveml_networks import check_network, logits_module
except ImportError as error:
    raise ImportError(
        "fishermask_fast.integrations.skactiveml needs scikit-activeml 1.0: "
        "pip install 'scikit-activeml>=1.0,<1.1' skorch"
    ) from error

Array = np.ndarray[Any, Any]


class FisherQuery(SingleAnnotatorPoolQueryStrategy):  # type: ignore[misc]
    """What all strategies share: everything but whose gradients, and where they are masked.

    scikit-learn reads the parameters off each strategy's own ``__init__``.
    """

    _likelihood = "categorical"

    def __init__(
        self,
        clf_embedding_flag_name: Any,
        lamb: float,
        backward_steps: int,
        rank: int | None,
        bias: bool,
        missing_label: Any,
        random_state: Any,
    ) -> None:
        self.clf_embedding_flag_name = clf_embedding_flag_name
        self.lamb = lamb
        self.backward_steps = backward_steps
        self.rank = rank
        self.bias = bias
        super().__init__(missing_label=missing_label, random_state=random_state)

    def query(
        self,
        X: Any,
        y: Any,
        clf: Any,
        fit_clf: bool = True,
        sample_weight: Any = None,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> Any:
        """Picks the batch of candidates that most lowers tr(M^-1 F).

        Args:
            X: (n_samples, ...) all samples, labeled or not.
            y: (n_samples,) their labels, `missing_label` where there is none.
            clf: a SkactivemlClassifier. Where it wraps a skorch module, and
                `clf_embedding_flag_name` is None, the gradients are the module's; otherwise those
                of a linear head on the embeddings that `predict_proba` gives, or else on X itself.
            fit_clf: whether a clone of `clf` is fitted on X, y and `sample_weight` first.
            sample_weight: (n_samples,) weights of the fit.
            candidates: None for every sample without a label; (n_candidates,) indices into X; or
                (n_candidates, ...) samples of their own.
            batch_size: how many to pick.
            return_utilities: whether to return the utilities beside the indices.

        Returns:
            query_indices: (batch_size,) into X, or into `candidates` where these are samples.
            utilities: (batch_size, n_samples), or (batch_size, n_candidates) where candidates are
                samples: by how much each would lower tr(M^-1 F) given the picks before it; NaN for
                those picked before and for those that are no candidates. Without backward steps
                each pick is the largest of its row.

        Raises:
            TypeError, ValueError: an argument that cannot be, as scikit-activeml's own strategies.
            NotFittedError: `fit_clf` is False and `clf` was not fitted.
        """
        return self._query(
            X, y, (clf, "clf", SkactivemlClassifier), fit_clf, sample_weight, candidates,
            batch_size, return_utilities,
        )  # fmt: skip

    def _query(
        self,
        X: Any,
        y: Any,
        asked: tuple[Any, str, type],
        fit: bool,
        sample_weight: Any,
        candidates: Any,
        batch_size: int,
        return_utilities: bool,
    ) -> Any:
        """`query` of an estimator, with its name among the arguments and the class it must have."""
        estimator, name, kind = asked
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True
        )
        own, mapping = self._transform_candidates(candidates, X, y)
        check_type(estimator, name, kind)
        check_equal_missing_label(estimator.missing_label, self.missing_label_)
        check_scalar(fit, f"fit_{name}", bool)
        self._check_parameters()
        labeled = np.flatnonzero(is_labeled(y, missing_label=self.missing_label_))
        if mapping is None:
            # X may hold the candidates too; they must not count twice.
            samples = np.concatenate([X[labeled], own])
            labeled, among = np.arange(len(labeled)), len(labeled) + np.arange(len(own))
        else:
            samples, among = X, np.asarray(mapping)
        n_shown = len(own) if mapping is None else len(X)
        utilities = np.full((batch_size, n_shown), np.nan)
        if batch_size == 0:
            nothing = np.empty(0, dtype=int)
            return (nothing, utilities) if return_utilities else nothing
        if fit:
            weights = () if sample_weight is None else (sample_weight,)
            estimator = clone(estimator).fit(X, y, *weights)
        shown = np.arange(len(own)) if mapping is None else among
        picks, scores = self._select(
            estimator, samples, labeled, among, batch_size, return_utilities
        )
        for row, (values, before) in enumerate(zip(scores, range(batch_size), strict=False)):
            utilities[row, shown] = values
            utilities[row, shown[picks[:before]]] = np.nan
        indices = shown[picks]
        return (indices, utilities) if return_utilities else indices

    def _select(
        self,
        clf: Any,
        samples: Array,
        labeled: Array,
        among: Array,
        n_select: int,
        with_scores: bool,
    ) -> tuple[Array, list[Array]]:
        """Places of the picks in `among`, and where wanted all scores before each of them."""
        factors = self._factors(clf, samples)
        fisher = factors.fisher()
        pool = factors[torch.from_numpy(among)]
        labeled_fisher = None
        if len(labeled):
            labeled_fisher = factors[torch.from_numpy(labeled)].fisher()
        lamb, n_labeled = self.lamb, len(labeled)
        selection = select_batch(
            pool,
            n_select,
            fisher,
            labeled_fisher,
            lamb=lamb,
            n_labeled=n_labeled,
            backward_steps=self.backward_steps,
        )
        picks = selection.indices.numpy()
        if not with_scores:
            return picks, []
        course = scores_along(
            pool, picks.tolist(), fisher, labeled_fisher, lamb=float(lamb), n_labeled=n_labeled
        )
        return picks, [scores.cpu().numpy() for scores, _ in zip(course, picks, strict=False)]

    def _check_parameters(self) -> None:
        if self.clf_embedding_flag_name is not None:
            check_type(self.clf_embedding_flag_name, "clf_embedding_flag_name", dict, str)
        check_positive("lamb", self.lamb)
        check_integer("backward_steps", self.backward_steps, 0)
        if self.rank is not None:
            check_integer("rank", self.rank, 1)
        check_scalar(self.bias, "bias", bool)

    def _factors(self, clf: Any, samples: Array) -> GradientFactors:
        check_network(clf, "fit_clf=False the classifier")
        if self.clf_embedding_flag_name is None and isinstance(clf, SkorchMixin):
            module, dtype = logits_module(clf), clf.sample_dtype
            return self._module_factors(module, as_tensor("X", samples.astype(dtype, copy=False)))
        given = self.clf_embedding_flag_name
        flags = {given: True} if isinstance(given, str) else given or {}
        output = clf.predict_proba(samples, **flags)
        probabilities, embeddings = output if isinstance(output, tuple) else (output, samples)
        embeddings = np.asarray(embeddings).reshape(len(samples), -1)
        if embeddings.dtype.kind != "f":
            embeddings = embeddings.astype(np.float64)
        probabilities = np.asarray(probabilities)
        if probabilities.shape[1] == 1:
            # A single class says nothing of any sample.
            return GradientFactors(torch.zeros(len(samples), 1, 1))
        return self._head_factors(embeddings, probabilities)

    def _module_factors(self, module: nn.Module, samples: Tensor) -> GradientFactors:
        raise NotImplementedError

    def _head_factors(self, embeddings: Array, probabilities: Array) -> GradientFactors:
        raise NotImplementedError


class BaitQuery(FisherQuery):
    """BAIT (Ash et al. 2021): the gradients of the head, oversampled and pruned.

    Args:
        clf_embedding_flag_name: how `predict_proba` is asked for embeddings: None, the name of a
            flag that is set to True, or a dict of keyword arguments. It then returns
            (probabilities, embeddings).
        lamb: lambda > 0.
        backward_steps: b: (1 + b) batches are picked, then b batches dropped again.
        rank: rows a sample; None is exact; see `factors_from_embeddings`.
        bias: whether the head on the embeddings has a bias. A module's own head knows.
        missing_label: the label of a sample without one.
        random_state: accepted for the framework's sake: nothing here is random.

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
        lamb: float = 1.0,
        backward_steps: int = 1,
        rank: int | None = None,
        bias: bool = False,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            clf_embedding_flag_name, lamb, backward_steps, rank, bias, missing_label, random_state
        )

    def _module_factors(self, module: nn.Module, samples: Tensor) -> GradientFactors:
        warn_ignored_of(self, ("bias",), "a module's own head is read, with its bias or without")
        return masked_gradients(
            module,
            samples,
            FisherMask.head(module, inputs=samples[:1]),
            likelihood=self._likelihood,
            rank=self.rank,
        )

    def _head_factors(self, embeddings: Array, probabilities: Array) -> GradientFactors:
        return factors_from_embeddings(embeddings, probabilities, rank=self.rank, bias=self.bias)


class FisherMaskQuery(FisherQuery):
    """FisherMask (Gul et al. 2024): the gradients of the parameters with the most information.

    Args:
        clf_embedding_flag_name: see BaitQuery.
        fraction: share of a module's parameters that the mask keeps, in (0, 1].
        mask: how they are chosen; see FisherMaskSelector.
        keep_head: whether the mask keeps the whole head.
        head_entries: the most entries of a linear head on embeddings that the mask keeps.
        fisher_samples: samples behind the mask of a module, drawn by `random_state`.
        lamb: lambda > 0.
        backward_steps: see BaitQuery.
        rank: see BaitQuery.
        bias: see BaitQuery.
        missing_label: the label of a sample without one.
        random_state: of the samples behind the mask, and of a random mask.
        n_parameters: how many parameters the mask keeps, instead of a share; with neither see
            FisherMaskSelector.
        head: name of a module's head; None reads it from the logits.

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
        lamb: float = 1.0,
        backward_steps: int = 0,
        rank: int | None = None,
        bias: bool = False,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
        n_parameters: int | None = None,
        head: str | None = None,
    ) -> None:
        self.fraction = fraction
        self.n_parameters = n_parameters
        self.mask = mask
        self.keep_head = keep_head
        self.head = head
        self.head_entries = head_entries
        self.fisher_samples = fisher_samples
        super().__init__(
            clf_embedding_flag_name, lamb, backward_steps, rank, bias, missing_label, random_state
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_size(self.fraction, self.n_parameters)
        if not isinstance(self.mask, str) or self.mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}; got {self.mask!r}")
        check_scalar(self.keep_head, "keep_head", bool)
        if self.head is not None:
            check_scalar(self.head, "head", str)
        check_integer("head_entries", self.head_entries, 1)
        check_integer("fisher_samples", self.fisher_samples, 1)

    def _module_factors(self, module: nn.Module, samples: Tensor) -> GradientFactors:
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
        mask = selector.make_mask(samples)
        return masked_gradients(module, samples, mask, likelihood=self._likelihood, rank=self.rank)

    def _head_factors(self, embeddings: Array, probabilities: Array) -> GradientFactors:
        warn_ignored_of(
            self,
            ("fraction", "mask", "keep_head", "fisher_samples"),
            "entries of a head on embeddings are chosen by head_entries",
        )
        size = probabilities.shape[1] * (embeddings.shape[1] + self.bias)
        return factors_from_embeddings(
            embeddings,
            probabilities,
            mask=min(self.head_entries, size),
            rank=self.rank,
            bias=self.bias,
        )
