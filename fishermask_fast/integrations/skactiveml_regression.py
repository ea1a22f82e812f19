"""Query strategies for scikit-activeml's regressors (1.0): FisherMask and BAIT.

As in skactiveml.py, with the Gaussian likelihood: V_x is the Jacobian of a skorch-wrapped module's
prediction; for any other regressor it is the features themselves, V_x = h_x^T, those of a linear
fit to them, and the batch is V-optimal design for that fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.arrays import as_tensor
from fishermask_fast.factors import GradientFactors, factors_from_embeddings
from fishermask_fast.integrations.skactiveml import BaitQuery, FisherMaskQuery
from fishermask_fast.integrations.skactiveml_networks import ChosenOutput, check_network
from fishermask_fast.integrations.skactiveml_queries import CHOOSE, Array, FisherQuery
from fishermask_fast.selector import Seen, Wishes

try:
    from skactiveml.base import SkactivemlRegressor, SkorchMixin
    from skactiveml.utils import MISSING_LABEL
except ImportError as error:
    raise ImportError(
        "fishermask_fast.integrations.skactiveml_regression needs scikit-activeml 1.0: "
        "pip install 'scikit-activeml>=1.0,<1.1' skorch"
    ) from error


class _RegressorQuery(FisherQuery):
    """`query` with a regressor in the classifier's place, as scikit-activeml's own have it."""

    _likelihood = "gaussian"

    def query(
        self,
        X: Any,
        y: Any,
        reg: Any,
        fit_reg: bool = True,
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
            y: (n_samples,) their targets, `missing_label` where there is none.
            reg: a SkactivemlRegressor. Where it wraps a skorch module the gradients are those of
                the module's first forward output, taken to be fitted by squared error; otherwise
                those of a linear fit to X, whatever the regressor is.
            fit_reg: whether a clone of `reg` is fitted on X, y and `sample_weight` first.
            sample_weight: (n_samples,) weights of the fit.
            candidates: None for every sample without a label; (n_candidates,) indices into X; or
                (n_candidates, ...) samples of their own.
            batch_size: how many to pick.
            return_utilities: whether to return the utilities beside the indices.
            eval_data: as FisherMaskQuery's, as are those that follow.
            gain_weights: (n_samples,) or (n_candidates,).
            pending: indices of samples without a target that are being measured.
            exclude: indices of samples that are not picked.
            cluster_ids: (n_samples,) or (n_candidates,).

        Returns:
            query_indices: (batch_size,) into X, or into `candidates` where these are samples.
            utilities: (batch_size, n_samples), or (batch_size, n_candidates), as FisherMaskQuery's.

        Raises:
            TypeError, ValueError: an argument that cannot be, as scikit-activeml's own strategies.
            NotFittedError: `fit_reg` is False and `reg` was not fitted.
        """
        return self._query(
            X, y, (reg, "reg", SkactivemlRegressor), fit_reg, sample_weight, candidates,
            batch_size, return_utilities, eval_data,
            Wishes(gain_weights, pending, exclude, cluster_ids),
        )  # fmt: skip

    def _seen(self, clf: Any, samples: Array, mask: Any = CHOOSE) -> tuple[Seen, Any]:
        check_network(clf, "fit_reg=False the regressor")
        if isinstance(clf, SkorchMixin):
            given = samples.astype(clf.sample_dtype, copy=False)
            return self._seen_by(_predictor(clf), as_tensor("X", given), mask, _no_classes)
        features = samples.reshape(len(samples), -1)
        if features.dtype.kind != "f":
            features = features.astype(float)
        h = torch.from_numpy(features)
        factors = self._feature_factors(h, mask)
        return Seen(factors, _no_classes, lambda: h), factors.head_index

    def _feature_factors(self, features: Tensor, mask: Any) -> GradientFactors:
        raise NotImplementedError


class BaitRegressorQuery(_RegressorQuery, BaitQuery):
    """BAIT (Ash et al. 2021) in regression: the gradients of the head, oversampled and pruned.

    Args:
        lamb: lambda > 0, in units of the noise's variance, or "auto"; None is the preset's.
        backward_steps: b: (1 + b) batches are picked, then b batches dropped again.
        bias: whether the fit to X has an intercept. A module's own head knows.
        missing_label: the label of a sample without one.
        random_state: accepted for the framework's sake: nothing here is random.
        prior_precision: instead of lamb; see FisherMaskSelector, as for those that follow.
        criterion: "trace" or "logdet".
        eval_weights: "uncovered", or (n_eval,) or (n_candidates,) weights.
        max_per_cluster: how many of one of the query's `cluster_ids` may be picked.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

    Example:
        >>> import numpy as np
        >>> from skactiveml.regressor import SklearnRegressor
        >>> from sklearn.linear_model import Ridge
        >>> from fishermask_fast.integrations.skactiveml_regression import BaitRegressorQuery
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = np.full(60, np.nan)
        >>> y[:10] = X[:10, 0]
        >>> BaitRegressorQuery().query(X, y, SklearnRegressor(Ridge()), batch_size=5).shape
        (5,)
    """

    def __init__(
        self,
        lamb: float | str | None = None,
        backward_steps: int = 1,
        bias: bool = True,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        eval_weights: Any = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
    ) -> None:
        super().__init__(
            lamb=lamb,
            backward_steps=backward_steps,
            bias=bias,
            missing_label=missing_label,
            random_state=random_state,
            prior_precision=prior_precision,
            criterion=criterion,
            eval_weights=eval_weights,
            max_per_cluster=max_per_cluster,
            preset=preset,
        )

    def _feature_factors(self, features: Tensor, mask: Any) -> GradientFactors:
        return factors_from_embeddings(features, likelihood="gaussian", bias=self.bias)


class FisherMaskRegressorQuery(_RegressorQuery, FisherMaskQuery):
    """FisherMask (Gul et al. 2024) in regression: the parameters with the most information.

    Args:
        fraction: share of a module's parameters that the mask keeps, in (0, 1].
        mask: how they are chosen; see FisherMaskSelector.
        keep_head: whether the mask keeps the whole head.
        head_entries: the most features of a linear fit that the mask keeps.
        fisher_samples: samples behind the mask of a module, drawn by `random_state`.
        lamb: lambda > 0, in units of the noise's variance, or "auto"; None is the preset's.
        backward_steps: see BaitRegressorQuery.
        bias: see BaitRegressorQuery.
        missing_label: the label of a sample without one.
        random_state: of the samples behind the mask, and of a random mask.
        prior_precision: instead of lamb; see FisherMaskSelector, as for those that follow.
        criterion: "trace" or "logdet".
        eval_weights: "uncovered", or (n_eval,) or (n_candidates,) weights.
        max_per_cluster: how many of one of the query's `cluster_ids` may be picked.
        preset: what lamb and eval_weights are where they are None; see FisherMaskSelector.

    Example:
        >>> import numpy as np
        >>> from skactiveml.regressor import SklearnRegressor
        >>> from sklearn.linear_model import Ridge
        >>> from fishermask_fast.integrations.skactiveml_regression import FisherMaskRegressorQuery
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = np.full(60, np.nan)
        >>> y[:10] = X[:10, 0]
        >>> FisherMaskRegressorQuery().query(X, y, SklearnRegressor(Ridge()), batch_size=5).shape
        (5,)
    """

    def __init__(
        self,
        fraction: float = 0.002,
        mask: str = "global",
        keep_head: bool = True,
        head_entries: int = 2000,
        fisher_samples: int = 1024,
        lamb: float | str | None = None,
        backward_steps: int = 0,
        bias: bool = True,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        eval_weights: Any = None,
        max_per_cluster: int | None = None,
        preset: str = "published",
    ) -> None:
        super().__init__(
            fraction=fraction,
            mask=mask,
            keep_head=keep_head,
            head_entries=head_entries,
            fisher_samples=fisher_samples,
            lamb=lamb,
            backward_steps=backward_steps,
            bias=bias,
            missing_label=missing_label,
            random_state=random_state,
            prior_precision=prior_precision,
            criterion=criterion,
            eval_weights=eval_weights,
            max_per_cluster=max_per_cluster,
            preset=preset,
        )

    def _feature_factors(self, features: Tensor, mask: Any) -> GradientFactors:
        if isinstance(mask, str):
            mask = min(self.head_entries, features.shape[1] + self.bias)
        return factors_from_embeddings(features, likelihood="gaussian", mask=mask, bias=self.bias)


def _no_classes() -> Tensor:
    raise ValueError("a regression has no probabilities of classes")


def _predictor(reg: Any) -> nn.Module:
    """A skorch-wrapped regressor's module, from samples to its first forward output."""
    place, _ = next(iter(reg._effective_forward_outputs().values()))
    module: nn.Module = reg.neural_net_.module_
    return module if place == 0 else ChosenOutput(module, place, True)
