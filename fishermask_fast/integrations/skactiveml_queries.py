"""What FisherMask's and BAIT's strategies for scikit-activeml share: a query by tr(M^-1 F).

A query asks the classifier for the factors of all samples, then picks among the candidates as
`selector.known` does; all of a query's options are by places in X, or in candidates of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fishermask_fast.arrays import as_tensor
from fishermask_fast.checks import check_integer
from fishermask_fast.engine import scores_along
from fishermask_fast.factors import GradientFactors
from fishermask_fast.gradients import masked_gradients
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import predict
from fishermask_fast.selector import (
    Aim,
    Answer,
    Labeled,
    Seen,
    Wishes,
    query_known,
)

try:
    from skactiveml.base import (
        SingleAnnotatorPoolQueryStrategy,
        SkactivemlClassifier,
        SkorchMixin,
    )
    from skactiveml.utils import (
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
CHOOSE = "choose"  # a mask for these samples


class FisherQuery(SingleAnnotatorPoolQueryStrategy):  # type: ignore[misc]
    """What all strategies share: everything but whose gradients, and where they are masked.

    scikit-learn reads the parameters off each strategy's own ``__init__``.
    """

    _likelihood = "categorical"

    def __init__(
        self,
        clf_embedding_flag_name: Any,
        lamb: float | str | None,
        backward_steps: int,
        rank: int | None,
        bias: bool,
        missing_label: Any,
        random_state: Any,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        rows: str = "all",
        eval_weights: Any = None,
        class_weight: str | None = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
    ) -> None:
        self.clf_embedding_flag_name = clf_embedding_flag_name
        self.lamb = lamb
        self.preset = preset
        self.prior_precision = prior_precision
        self.criterion = criterion
        self.rows = rows
        self.eval_weights = eval_weights
        self.class_weight = class_weight
        self.max_per_cluster = max_per_cluster
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
        *,
        eval_data: Any = None,
        gain_weights: Any = None,
        pending: Any = None,
        exclude: Any = None,
        cluster_ids: Any = None,
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
            eval_data: (n_eval, ...) samples whose uncertainty is to fall, instead of all of X's
                (scikit-activeml's X_eval).
            gain_weights: (n_samples,) factors on gains and utilities, such as 1 / cost, or
                (n_candidates,) where candidates are samples; so are the next three.
            pending: indices of samples without a label that are at the annotators: they are in M
                like picks, candidates or not, and are not picked.
            exclude: indices of samples that are not picked.
            cluster_ids: (n_samples,) integers; with `max_per_cluster`.

        Returns:
            query_indices: (batch_size,) into X, or into `candidates` where these are samples.
            utilities: (batch_size, n_samples), or (batch_size, n_candidates) where candidates are
                samples: by how much each would lower tr(M^-1 F), or raise log det M, given the
                picks before it, times its weight; NaN for those that may not be picked any more or
                are no candidates. Without backward steps each pick is the largest of its row.

        Raises:
            TypeError, ValueError: an argument that cannot be, as scikit-activeml's own strategies.
            NotFittedError: `fit_clf` is False and `clf` was not fitted.
        """
        return self._query(
            X, y, (clf, "clf", SkactivemlClassifier), fit_clf, sample_weight, candidates,
            batch_size, return_utilities, eval_data,
            Wishes(gain_weights, pending, exclude, cluster_ids),
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
        eval_data: Any,
        wishes: Wishes,
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
        self._aim.check_query(eval_data is not None)
        aimed = None if eval_data is None else _like("eval_data", eval_data, X)
        labeled = np.flatnonzero(is_labeled(y, missing_label=self.missing_label_))
        if mapping is None:
            # X may hold the candidates too; they must not count twice.
            samples = np.concatenate([X[labeled], own])
            first, n_shown = len(labeled), len(own)
            known, asked_of, taken = np.arange(first), np.arange(n_shown), np.arange(0)
        else:
            samples, first, n_shown = X, 0, len(X)
            known, asked_of, taken = labeled, np.asarray(mapping), labeled
        among = wishes.with_pending(asked_of, n_shown)
        wishes = wishes.among(among, n_shown, taken)
        utilities = np.full((batch_size, n_shown), np.nan)
        if batch_size == 0:
            nothing = np.empty(0, dtype=int)
            return (nothing, utilities) if return_utilities else nothing
        wishes.check(self._aim, batch_size, len(among))
        if fit:
            weights = () if sample_weight is None else (sample_weight,)
            estimator = clone(estimator).fit(X, y, *weights)
        seen, mask = self._seen(estimator, samples)
        answer, pool, of_labeled = self._answer(
            seen, first + among, known, batch_size, wishes,
            None if aimed is None else self._seen(estimator, aimed, mask)[0],
            lambda: _class_places(estimator, y[labeled]),
        )  # fmt: skip
        picks = answer.selection.indices.numpy()
        if return_utilities:
            course = self._course(answer, pool, of_labeled, wishes)
            for row, values in enumerate(course):
                utilities[row, among] = values
        indices = among[picks]
        return (indices, utilities) if return_utilities else indices

    def _answer(
        self,
        seen: Seen,
        among: Array,
        known: Array,
        n_select: int,
        wishes: Wishes,
        aimed: Seen | None,
        labels: Callable[[], list[int]],
    ) -> tuple[Answer, GradientFactors, Labeled]:
        """The selection among some of the samples, their factors, and what is labeled."""
        here, of_known = torch.from_numpy(among), torch.from_numpy(known)
        pool = Seen(
            seen.factors[here], lambda: seen.probabilities()[here], lambda: seen.features()[here]
        )
        n = len(known)
        labeled = Labeled(
            n,
            seen.factors[of_known].fisher() if n else None,
            lambda: seen.features()[of_known],
            labels() if self.class_weight is not None else None,
        )
        answer = query_known(
            self._aim, wishes, n_select, pool, labeled, mean=seen.factors.fisher, eval_data=aimed
        )
        return answer, pool.factors, labeled

    def _course(
        self, answer: Answer, pool: GradientFactors, labeled: Labeled, wishes: Wishes
    ) -> Iterator[Array]:
        """What each candidate would bring before each pick; NaN where it may not be picked."""
        picks, aim = answer.selection.indices.tolist(), self._aim
        course = scores_along(
            pool,
            picks,
            answer.fisher,
            labeled.fisher,
            lamb=aim.lamb,
            n_labeled=labeled.n,
            prior_precision=aim.prior_precision,
            criterion=aim.criterion,
            pending=wishes.pending,
        )
        for before, scores in zip(range(len(picks)), course, strict=False):
            if answer.gains is not None:
                scores = scores * answer.gains
            closed = wishes.closed(aim, len(pool), picks[:before])
            yield scores.masked_fill(closed, torch.nan).cpu().numpy()

    @property
    def _aim(self) -> Aim:
        weights = as_tensor("eval_weights", self.eval_weights)
        return Aim.of(self, likelihood=self._likelihood, eval_weights=weights)

    def _check_parameters(self) -> None:
        if self.clf_embedding_flag_name is not None:
            check_type(self.clf_embedding_flag_name, "clf_embedding_flag_name", dict, str)
        check_integer("backward_steps", self.backward_steps, 0)
        if self.rank is not None:
            check_integer("rank", self.rank, 1)
        self._aim.check()
        check_scalar(self.bias, "bias", bool)

    def _seen(self, clf: Any, samples: Array, mask: Any = CHOOSE) -> tuple[Seen, Any]:
        """Samples as a fitted classifier sees them, and the mask that was chosen or given."""
        check_network(clf, "fit_clf=False the classifier")
        if self.clf_embedding_flag_name is None and isinstance(clf, SkorchMixin):
            module, dtype = logits_module(clf), clf.sample_dtype
            given = as_tensor("X", samples.astype(dtype, copy=False))
            return self._seen_by(
                module, given, mask, lambda: torch.as_tensor(clf.predict_proba(samples))
            )
        name = self.clf_embedding_flag_name
        flags = {name: True} if isinstance(name, str) else name or {}
        output = clf.predict_proba(samples, **flags)
        probabilities, embeddings = output if isinstance(output, tuple) else (output, samples)
        embeddings = np.asarray(embeddings).reshape(len(samples), -1)
        if embeddings.dtype.kind != "f":
            embeddings = embeddings.astype(np.float64)
        probabilities = np.asarray(probabilities)
        if probabilities.shape[1] == 1:
            # A single class says nothing of any sample.
            factors = GradientFactors(torch.zeros(len(samples), 1, 1))
        else:
            factors = self._head_factors(embeddings, probabilities, mask)
            mask = factors.head_index
        p, h = torch.as_tensor(probabilities), torch.as_tensor(embeddings)
        return Seen(factors, lambda: p, lambda: h), mask

    def _seen_by(
        self, module: nn.Module, samples: Tensor, mask: Any, probabilities: Callable[[], Tensor]
    ) -> tuple[Seen, FisherMask]:
        """Samples by the gradients of a module, and the mask."""
        if not isinstance(mask, FisherMask):
            mask = self._module_mask(module, samples)
        factors = masked_gradients(
            module, samples, mask, likelihood=self._likelihood, rank=self.rank, rows=self.rows
        )
        head = getattr(self, "head", None)
        return Seen(
            factors, probabilities, lambda: predict(module, samples, hidden=True, head=head)[1]
        ), mask

    def _module_mask(self, module: nn.Module, samples: Tensor) -> FisherMask:
        raise NotImplementedError

    def _head_factors(self, embeddings: Array, probabilities: Array, mask: Any) -> GradientFactors:
        raise NotImplementedError


def _like(name: str, given: Any, samples: Array) -> Array:
    """Samples of the form of others.

    Raises:
        TypeError, ValueError: they are none.
    """
    try:
        found = np.asarray(given, dtype=samples.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be samples as X are; {error}") from None
    if found.ndim != samples.ndim or found.shape[1:] != samples.shape[1:] or not len(found):
        raise ValueError(
            f"{name} must have shape (n, {', '.join(map(str, samples.shape[1:]))}), as X has; got "
            f"{found.shape}"
        )
    if not np.isfinite(found.astype(np.float64)).all():
        raise ValueError(f"{name} must be finite; it holds NaN or Inf")
    return found


def _class_places(clf: Any, labels: Array) -> list[int]:
    """Places of labels among a classifier's classes.

    Raises:
        ValueError: one of them is none.
    """
    places = {label: place for place, label in enumerate(clf.classes_)}
    lost = [label for label in labels if label not in places]
    if lost:
        raise ValueError(f"y must hold the classifier's classes; got {lost[0]!r}")
    return [places[label] for label in labels]
