"""The public class: from a model and a pool to a batch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fishermask_fast.checks import check_flag
from fishermask_fast.distributed import NOTHING, Ranks, is_empty
from fishermask_fast.estimates import Estimate
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.likelihoods import LikelihoodLike
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import Head, check_count
from fishermask_fast.selection import Selection
from fishermask_fast.selector.counting import counted, seconds_of
from fishermask_fast.selector.course import Asked, has_tqdm, prepare, run
from fishermask_fast.selector.parameters import Parameters
from fishermask_fast.selector.query import Query
from fishermask_fast.selector.wishes import Wishes

if TYPE_CHECKING:  # builds of torch without torch.distributed lack it
    from torch.distributed import ProcessGroup

Data = Dataset[Any] | DataLoader[Any] | Tensor


class FisherMaskSelector:
    """Picks batches for a model by FisherMask (Gul et al. 2024).

    Parameters are stored as given and checked by ``query``. With ``mask="head"`` and
    ``backward_steps=1`` the batch is BAIT's (Ash et al. 2021).

    Args:
        model: From a batch to outputs, to an object with ``.logits``, or to a tuple whose first
            item is outputs. It is read in eval mode and left as it was.
        fraction: Share of the parameters that the mask keeps, in (0, 1]; of each tensor for
            ``"per_layer"``. Of no account for ``"relative"`` and ``"head"``.
        n_parameters: k, how many parameters the mask keeps, instead of a fraction. With neither,
            the model alone decides: the published 0.002 of its parameters, at least twice the
            head, at most 4,096 or the head and 512 beside it; where the head has more than 4,096,
            its parameters compete with all others for 4,096. ``mask_.reason`` says which it was.
        mask: How parameters are chosen: ``"global"``, ``"per_layer"``, ``"relative"``,
            ``"random"``, ``"head"``, ``"middle"`` (the largest outside the head), or a
            ``FisherMask`` made before.
        keep_head: Whether the first three of them keep the whole head.
        head: Name of the head, the layer whose product with its input gives the logits: a module, a
            parameter, or a tuple of them. None reads it from the graph of a sample's logits.
        likelihood: What the outputs are: ``"categorical"``: logits (N, C) of one of C classes;
            ``"bernoulli"``: logits (N, C) or (N,) of several labels, each for itself, as trained
            with BCEWithLogitsLoss; ``"gaussian"``: means (N, d) or (N,) of a regression; or a
            function, as in ``masked_gradients``. The outputs of a multi-label model look like
            logits of one class, so nothing can tell if this is left out.
        weighting: ``"fisher"``: rows sqrt(p_c) grad log p_c, as the paper's formula has it;
            ``"none"``: rows grad log p_c, as its published code has it.
        preset: What ``lamb`` and ``eval_weights`` are where they are None. ``"published"``: 1, and
            the mean over all samples. ``"recommended"``: ``"auto"`` unless there is a
            prior_precision, and ``"balanced"`` where the likelihood is categorical and the
            criterion ``"trace"``. Both are exact.
        lamb: lambda > 0, or ``"auto"`` for 0.1 tr(F) / k; None is the preset's.
        prior_precision: Instead of lamb: M in sums, as for ``select_batch``.
        criterion: ``"trace"``, or ``"logdet"`` for D-optimal picks, as for ``select_batch``.
        eval_weights: Of the samples whose uncertainty is to fall, those of ``eval_data`` or, where
            there is none, the unlabeled ones: ``"balanced"``: each class alike, by the model's
            probabilities; ``"uncovered"``: 1 - exp(-(d / h)^2), d the distance of the head's input
            to the nearest labeled one, h its median to the fifth neighbour; or a Tensor (N,). None
            is the preset's; as published the mean over all samples, labeled and unlabeled, or over
            ``eval_data``.
        class_weight: ``"balanced"`` multiplies gains with (sum_c p_c / n_c)^0.5, n_c the labeled
            samples of class c.
        rows: ``"all"``, or ``"top_class"`` for one row a sample, as for ``masked_gradients``.
        max_per_cluster: How many samples of one of the query's ``cluster_ids`` may be picked.
        backward_steps: b >= 0: pick (1 + b) K, then drop b K of them one at a time.
        fisher_samples: Samples of the Fisher diagonal, drawn by ``seed`` from all samples.
        rank: Rows r of V_x; None is exact.
        batch_size: Samples of a forward pass; None leaves it to the DataLoader, or to a default.
        device: Where to compute; None is the model's device.
        seed: Of the samples behind the mask, and of a random mask.
        group: The torch.distributed process group whose ranks query together, each with its own
            part of the data. None is this process alone, or all processes where the data come with
            a DistributedSampler.

    Attributes:
        mask_: The mask of the last query.
        fisher_: F of the last query, (k, k) float64; None with ``criterion="logdet"``.
        labeled_fisher_: F_L of the last query, (k, k) float64, or None without labeled samples.
        seconds_: Seconds of the last query by step: mask, gradients, fisher, selection.

    Example:
        >>> import torch
        >>> from fishermask_fast import FisherMaskSelector
        >>> selector = FisherMaskSelector(torch.nn.Linear(8, 3), mask="head", backward_steps=1)
        >>> selection = selector.query(torch.rand(40, 8), 5, torch.rand(10, 8), progress=False)
        >>> len(selection)
        5
        >>> len(selector.mask_)  # 3 x 8 weights and 3 biases
        27
    """

    mask_: FisherMask
    fisher_: Tensor | None
    labeled_fisher_: Tensor | None
    seconds_: dict[str, float]

    def __init__(
        self,
        model: nn.Module,
        *,
        fraction: float | None = None,
        n_parameters: int | None = None,
        mask: str | FisherMask = "global",
        keep_head: bool = True,
        head: Head | None = None,
        likelihood: LikelihoodLike = "categorical",
        weighting: str = "fisher",
        preset: str = "published",
        lamb: float | str | None = None,
        prior_precision: float | str | None = None,
        criterion: str = "trace",
        eval_weights: str | Tensor | None = None,
        class_weight: str | None = None,
        rows: str = "all",
        max_per_cluster: int | None = None,
        backward_steps: int = 0,
        fisher_samples: int = 1024,
        rank: int | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
        group: ProcessGroup | None = None,
    ) -> None:
        self.model = model
        self.fraction = fraction
        self.n_parameters = n_parameters
        self.mask = mask
        self.keep_head = keep_head
        self.head = head
        self.likelihood = likelihood
        self.weighting = weighting
        self.preset = preset
        self.lamb = lamb
        self.prior_precision = prior_precision
        self.criterion = criterion
        self.eval_weights = eval_weights
        self.class_weight = class_weight
        self.rows = rows
        self.max_per_cluster = max_per_cluster
        self.backward_steps = backward_steps
        self.fisher_samples = fisher_samples
        self.rank = rank
        self.batch_size = batch_size
        self.device = device
        self.seed = seed
        self.group = group

    def __repr__(self) -> str:
        defaults = self._defaults()
        shown = [f"model={type(self.model).__name__}"]
        for name, value in self.get_params().items():
            if name != "model" and value != defaults[name]:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as given; ``deep`` is scikit-learn's, and of no account.

        Example:
            >>> import torch
            >>> from fishermask_fast import FisherMaskSelector
            >>> model, pool = torch.nn.Linear(8, 3), torch.rand(40, 8)
            >>> FisherMaskSelector(model, lamb=0.1).get_params()["lamb"]
            0.1
        """
        return {name: getattr(self, name) for name in self._defaults()}

    def query(
        self,
        unlabeled: Data,
        n_select: int,
        labeled: Data | None = None,
        *,
        progress: bool = True,
        out: str | os.PathLike[str] | None = None,
        eval_data: Data | GradientFactors | StoredFactors | None = None,
        gain_weights: Tensor | None = None,
        pending: Tensor | Sequence[int] | None = None,
        exclude: Tensor | Sequence[int] | None = None,
        cluster_ids: Tensor | Sequence[int] | None = None,
        labels: Tensor | Sequence[int] | None = None,
    ) -> Selection:
        """Pick ``n_select`` samples of ``unlabeled``.

        Give both data sets with the transform of evaluation: random crops and flips would make
        the gradients of a sample depend on the draw.

        Args:
            unlabeled: N_U samples to pick from: Dataset, DataLoader or Tensor. A batch is a tensor,
                a tuple whose first item is the input, or a dict of keyword arguments. Labels
                are never read. Picks are indices into the data set, in its own order. Of a
                DataLoader with a DistributedSampler each process reads its part, and all get the
                picks of the whole; with ``group`` alone, the ranks' data sets follow one another.
            n_select: K, 1 <= K <= N_U.
            labeled: The n_L samples that are labeled already; None or empty when there are none.
            progress: Show a bar for each step, where tqdm is installed.
            out: A new file for the unlabeled samples' gradients, which then need no memory, as in
                ``masked_gradients``; of several ranks each needs its own. A query that was stopped
                goes on from what it holds.
            eval_data: Whose uncertainty is to fall, instead of that of all samples here: data as
                ``unlabeled``, such as a sample of where the model will be used; or their factors
                on the mask of this query.
            gain_weights: (N_U,) factors above 0 on gains, as for ``select_batch``.
            pending: Indices of unlabeled samples that are at the annotators.
            exclude: Indices of unlabeled samples that are not picked.
            cluster_ids: (N_U,) integers, as for ``select_batch``; needs ``max_per_cluster``.
            labels: (n_L,) classes of the labeled samples, for ``class_weight``; None reads them
                from ``labeled``, whose items then are pairs.

        Returns:
            The picks in order, with their scores and the course of tr(M^-1 F): of when to stop it
            tells that picks of this model bring less and less, not how accurate the model is.

        Raises:
            TypeError: A parameter or a data set is of the wrong type.
            ValueError: A parameter is out of range, the pool is empty or smaller than
                ``n_select``, the mask cannot be made for this model, or the model does not take
                the samples, or its outputs are not finite, or not those of the likelihood, or
                ``out`` holds gradients of another model, mask, likelihood or pool.
            OSError: ``out`` cannot be written.

        Example:
            >>> import torch
            >>> from fishermask_fast import FisherMaskSelector
            >>> model, pool = torch.nn.Linear(8, 3), torch.rand(40, 8)
            >>> selection = FisherMaskSelector(model).query(pool, 5, progress=False)
            >>> selection.indices.shape, selection.scores.dtype
            (torch.Size([5]), torch.float64)
        """
        if labeled is not None and is_empty(labeled) and self.group is None:
            labeled = None
        wishes = Wishes(gain_weights, pending, exclude, cluster_ids)
        asked = Asked(unlabeled, n_select, labeled, progress, out, eval_data, wishes, labels)
        query = prepare(self._parameters(), asked, self._defaults())
        self.seconds_ = query.seconds
        selection, self.mask_, self.fisher_, self.labeled_fisher_ = run(query, asked)
        return selection

    def estimate(
        self,
        unlabeled: Data,
        n_select: int,
        labeled: Data | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
    ) -> Estimate:
        """What ``query`` with the same arguments will need: bytes by part, and seconds a step.

        One batch is timed; the seconds of the mask, the gradients and the Fisher matrix follow from
        it. Those of the selection depend on how scores fall, and are not told.

        Args:
            unlabeled: As for ``query``.
            n_select: As for ``query``.
            labeled: As for ``query``.
            out: As for ``query``; nothing is written.

        Returns:
            A table; print it.

        Raises:
            TypeError, ValueError: As ``query``, but for memory.

        Example:
            >>> import torch
            >>> from fishermask_fast import FisherMaskSelector
            >>> model, pool = torch.nn.Linear(8, 3), torch.rand(40, 8)
            >>> needed = FisherMaskSelector(model).estimate(pool, 5)
            >>> needed.k, needed.n_rows, needed.peak < needed.available
            (27, 2, True)
        """
        if labeled is not None and is_empty(labeled):
            labeled = None
        own = self._parameters().filled()
        own.check()
        check_count("n_select", n_select, optional=False)
        query = Query.of(replace(own, group=None), Ranks(None), unlabeled, labeled)
        query.check_samples()
        head = query.find_head()
        needed = counted(query, head, out is not None)
        return replace(needed, seconds=seconds_of(query, head, needed))

    def make_mask(self, data: Data, *, progress: bool = False) -> FisherMask:
        """The mask that ``query`` would take for a pool of these samples.

        Raises:
            TypeError, ValueError: As ``query``.

        Example:
            >>> import torch
            >>> from fishermask_fast import FisherMaskSelector
            >>> model, pool = torch.nn.Linear(8, 3), torch.rand(40, 8)
            >>> mask = FisherMaskSelector(model, n_parameters=10, keep_head=False).make_mask(pool)
            >>> len(mask)
            10
        """
        check_flag("progress", progress)
        own = self._parameters().filled()
        own.check()
        ranks = Ranks(None)
        part = ranks.part(data, "data")
        query = Query(own, ranks, part, NOTHING, progress and has_tqdm(), name="data")
        query.check_samples()
        return query.make_mask(query.find_head())

    def check_parameters(self) -> None:
        """Check everything but the data, as ``query`` does before any work.

        Raises:
            TypeError: A parameter is of the wrong type.
            ValueError: A parameter is out of range, or does not suit the model.

        Example:
            >>> import torch
            >>> from fishermask_fast import FisherMaskSelector
            >>> model, pool = torch.nn.Linear(8, 3), torch.rand(40, 8)
            >>> FisherMaskSelector(model, lamb=-1.0).check_parameters()
            Traceback (most recent call last):
            ValueError: lamb must be a finite number above 0; got -1.0
        """
        self._parameters().filled().check()

    def _parameters(self) -> Parameters:
        return Parameters(**{field.name: getattr(self, field.name) for field in fields(Parameters)})

    def _defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters
        return {name: parameter.default for name, parameter in parameters.items()}
