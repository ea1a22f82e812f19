"""From a model and a pool to a batch: mask, masked gradients, Fisher matrices, selection.

One query chooses k parameters by the Fisher diagonal, takes V_x on them for every sample, and picks
the batch that most reduces tr(M^-1 F), where

    F   = (1/N)   sum over all samples, labeled and unlabeled, of V_x^T V_x
    F_L = (1/n_L) sum over the labeled samples of V_x^T V_x,   M = lambda I + F_L n_L / (n_L + K)
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fishermask_fast.checks import (
    caller_level,
    check_flag,
    check_path,
    check_positive,
    is_integer,
    warn_ignored,
)
from fishermask_fast.distributed import (
    NOTHING,
    Part,
    Ranks,
    described,
    described_device,
    described_model,
    is_empty,
    packages,
)
from fishermask_fast.engine import runs_on
from fishermask_fast.estimates import Estimate, Query, activations_of, estimate, factor_numbers
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.gradients import draw, fisher_diagonal, masked_gradients
from fishermask_fast.inspection import output_warnings, pool_warnings, scale_warnings
from fishermask_fast.likelihoods import LikelihoodLike, likelihood_of
from fishermask_fast.masks import METHODS, FisherMask, MaskSize, check_size, size_of_mask
from fishermask_fast.network import (
    Head,
    Pool,
    check_count,
    check_device,
    check_seed,
    compute_dtype,
    device_of,
    evaluating,
    find_head,
    head_parameters,
    input_dtype,
    one_head,
    outputs_of_samples,
    to_model,
    trainable,
    unwrap,
)
from fishermask_fast.selection import Selection, select_batch

if TYPE_CHECKING:  # builds of torch without torch.distributed lack it
    from torch.distributed import ProcessGroup

logger = logging.getLogger(__name__)

Data = Dataset[Any] | DataLoader[Any] | Tensor

# Parameters that all ranks must have in common, besides the model and the device's type.
_COMPARED = (
    "fraction",
    "n_parameters",
    "mask",
    "keep_head",
    "head",
    "likelihood",
    "weighting",
    "lamb",
    "backward_steps",
    "fisher_samples",
    "rank",
    "batch_size",
    "seed",
)

MASKS = (*METHODS, "random", "head")
_TIMED = 16  # samples of a batch that `estimate` times


def unread_options(mask: str) -> tuple[str, ...]:
    """Options that a way to choose the mask does not read; "given" is a mask made before."""
    return _UNREAD.get(mask, ())


_UNREAD = {
    "relative": ("fraction", "n_parameters"),
    "random": ("keep_head", "fisher_samples"),
    "head": ("fraction", "n_parameters", "keep_head", "fisher_samples"),
    "given": ("fraction", "n_parameters", "keep_head", "fisher_samples"),
}


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
            ``"random"``, ``"head"``, or a ``FisherMask`` made before.
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
        lamb: lambda > 0.
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
        fisher_: F of the last query, (k, k) float64.
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
    fisher_: Tensor
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
        lamb: float = 1.0,
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
        self.lamb = lamb
        self.backward_steps = backward_steps
        self.fisher_samples = fisher_samples
        self.rank = rank
        self.batch_size = batch_size
        self.device = device
        self.seed = seed
        self.group = group

    def __repr__(self) -> str:
        given = inspect.signature(type(self)).parameters
        shown = [f"model={type(self.model).__name__}"]
        for name, value in self.get_params().items():
            if name != "model" and value != given[name].default:
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
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def query(
        self,
        unlabeled: Data,
        n_select: int,
        labeled: Data | None = None,
        *,
        progress: bool = True,
        out: str | os.PathLike[str] | None = None,
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

        Returns:
            The picks in order, with their scores and the course of tr(M^-1 F).

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
        ranks = Ranks.of(self.group, [unlabeled, labeled])
        ranks.attempt(self.check_parameters)
        ranks.attempt(lambda: check_count("n_select", n_select, optional=False))
        ranks.attempt(lambda: check_flag("progress", progress))
        # On every rank, as all take part in an attempt.
        ranks.attempt(lambda: None if out is None else check_path("out", out))
        ranks.check_same(lambda: self._in_common(n_select, labeled))
        ranks.check_apart("out", None if out is None else _place(out))
        self._warn_of_ignored()
        pool = ranks.part(unlabeled, "unlabeled")
        if n_select > pool.n_total:
            raise ValueError(
                f"n_select must be at most the {pool.n_total} unlabeled samples; got {n_select}"
            )
        known = NOTHING
        if labeled is not None or self.group is not None:
            known = ranks.part(labeled, "labeled")
        for part, name in ((pool, "unlabeled"), (known, "labeled")):
            ranks.attempt(partial(self._try_model, part, name))
        ranks.attempt(partial(self._warn, pool if len(pool) else known))
        progress = progress and _has_tqdm()
        self.seconds_ = {}

        with self._timed("mask"):
            head = self._find_head(ranks, pool, known)
            ranks.attempt(partial(self._check_fits, pool, known, head, out))
            mask = self._make_mask(ranks, pool, known, head, progress)
        ranks.check_same(lambda: {"the mask of the query": described(mask)})
        ranks.attempt(partial(self._check_fits, pool, known, head, out, mask))
        logger.info("mask: %r", mask)
        where = self._where
        labeled_fisher = self._labeled_fisher(ranks, known, mask, progress)
        with self._timed("gradients"):
            factors = ranks.attempt(partial(self._gradients, pool, mask, progress, out))
        with self._timed("fisher"):
            fisher = _fisher(ranks, factors, pool, mask)
            if labeled_fisher is not None:
                share = known.n_total / (known.n_total + pool.n_total)
                fisher = torch.lerp(fisher, labeled_fisher, share)
        with self._timed("selection"):
            selection = select_batch(
                factors,
                n_select,
                fisher,
                labeled_fisher,
                lamb=self.lamb,
                n_labeled=known.n_total,
                backward_steps=self.backward_steps,
                progress=progress,
                device=where if isinstance(factors, StoredFactors) and runs_on(where) else None,
                group=ranks.group,
                sample_indices=None if ranks.alone else pool.places,
            )
        self.mask_, self.fisher_, self.labeled_fisher_ = mask, fisher, labeled_fisher
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
        self.check_parameters()
        check_count("n_select", n_select, optional=False)
        ranks = Ranks(None)
        pool = ranks.part(unlabeled, "unlabeled")
        known = NOTHING if labeled is None else ranks.part(labeled, "labeled")
        self._try_model(pool, "unlabeled")
        head = self._find_head(ranks, pool, known)
        counted = self._counted(pool, known, head, out)
        return replace(counted, seconds=self._time_batch(pool, known, head, counted))

    def _time_batch(
        self, pool: Part, known: Part, head: Head | None, counted: Estimate
    ) -> dict[str, float]:
        """Seconds of the steps before the selection, from one batch."""
        n = min(len(pool), self.batch_size or _TIMED)
        some = replace(pool, indices=pool.among(pool.places[:n]), places=pool.places[:n])
        mask = self.mask
        if not isinstance(mask, FisherMask):
            size = self._mask_size(head)
            whole = size is not None and size.keep_head and bool(self._trainable_head(head))
            mask = FisherMask.random(
                self.model,
                n_parameters=counted.k,
                head=() if head is None else head,
                keep_head=whole,
            )
        seconds = {}
        if self.mask in METHODS:
            start = time.perf_counter()
            self._diagonal(some, n, False)
            drawn = min(self.fisher_samples, len(pool) + len(known))
            seconds["mask"] = (time.perf_counter() - start) * drawn / n
        start = time.perf_counter()
        factors = self._gradients(some, mask, False)
        every = (len(pool) + len(known)) / n
        seconds["gradients"] = (time.perf_counter() - start) * every
        start = time.perf_counter()
        assert factors is not None
        factors.fisher()
        seconds["fisher"] = (time.perf_counter() - start) * every
        return seconds

    @property
    def _where(self) -> torch.device:
        return device_of(self.model) if self.device is None else torch.device(self.device)

    def _trainable_head(self, head: Head | None) -> tuple[str, ...]:
        return () if head is None else head_parameters(self.model, head)

    def _check_fits(
        self,
        pool: Part,
        known: Part,
        head: Head | None,
        out: object,
        mask: FisherMask | None = None,
    ) -> None:
        """Raise where this process's part of a query does not fit into memory."""
        if len(pool) or len(known):
            self._counted(pool, known, head, out, mask).check(self._where)

    def _counted(
        self,
        pool: Part,
        known: Part,
        head: Head | None,
        out: object,
        mask: FisherMask | None = None,
    ) -> Estimate:
        """What a query holds, with its mask or before that is made."""
        mask = self.mask if isinstance(self.mask, FisherMask) else mask
        decided = None if mask is not None else self._mask_size(head)
        total = sum(p.numel() for p in trainable(unwrap(self.model)).values())
        own = self._trainable_head(head)
        if mask is not None:
            k, reason = len(mask), mask.reason
            whole = all(
                len(mask.indices.get(name, ())) == math.prod(mask.shapes[name]) for name in own
            )
        elif decided is not None:
            k, reason, whole = decided.k, decided.reason, decided.keep_head
        else:
            k, reason, whole = 1, "as the scores will say", False
        part = pool if len(pool) else known
        with evaluating(self.model, self.device) as net:
            inputs = to_model(part.some, device_of(net), input_dtype(net, part.some))
            saved, outputs = activations_of(net, inputs)
        n_rows = (
            likelihood_of(self.likelihood).make_rows(outputs, self.weighting, self.rank).shape[1]
        )
        numbers = factor_numbers(self.model, head, inputs, k, n_rows, whole and bool(own))
        dtype = compute_dtype(trainable(unwrap(self.model)))
        needs = Query(
            k=k,
            reason=reason,
            n_total=total,
            n_rows=n_rows,
            n_pool=len(pool),
            n_labeled=len(known),
            sample_numbers=numbers,
            itemsize=dtype.itemsize,
            saved_bytes=saved,
            batch_size=self.batch_size or Pool.of(part.data).batch_size,
            diagonal=mask is None and self.mask in METHODS,
            backward=self.backward_steps > 0,
            stored=out is not None,
        )
        return estimate(needs, self._where)

    def _labeled_fisher(
        self, ranks: Ranks, known: Part, mask: FisherMask, progress: bool
    ) -> Tensor | None:
        """F_L, whose gradients are gone when this returns."""
        if not known.n_total:
            return None
        with self._timed("gradients"):
            factors = ranks.attempt(partial(self._gradients, known, mask, progress))
        with self._timed("fisher"):
            return _fisher(ranks, factors, known, mask)

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
        self.check_parameters()
        ranks = Ranks(None)
        part = ranks.part(data, "data")
        self._try_model(part, "data")
        head = self._find_head(ranks, part, NOTHING)
        return self._make_mask(ranks, part, NOTHING, head, progress and _has_tqdm())

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
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be an nn.Module; got {type(self.model).__name__}")
        if not isinstance(self.mask, FisherMask) and self.mask not in MASKS:
            raise ValueError(
                f"mask must be one of {', '.join(MASKS)} or a FisherMask; got {self.mask!r}"
            )
        likelihood_of(self.likelihood).check_options(self.weighting, self.rank)
        check_positive("lamb", self.lamb)
        check_flag("keep_head", self.keep_head)
        if self.device is not None:
            check_device(self.device)
        if not is_integer(self.backward_steps):
            raise TypeError(
                f"backward_steps must be an int, 0 or more; got {self.backward_steps!r}"
            )
        if self.backward_steps < 0:
            raise ValueError(f"backward_steps must be 0 or more; got {self.backward_steps}")
        check_seed(self.seed)
        check_count("fisher_samples", self.fisher_samples, optional=False)
        check_count("batch_size", self.batch_size)
        if isinstance(self.mask, FisherMask):
            self.mask.check(self.model)
        else:
            check_size(self.fraction, self.n_parameters)
            trainable(unwrap(self.model))
            head = one_head(self.model) if self.head is None else self.head
            if head is not None:
                self._mask_size(head)

    def _warn_of_ignored(self) -> None:
        parameters = inspect.signature(type(self)).parameters
        method = self.mask if isinstance(self.mask, str) else "given"
        warn_ignored(
            {name: getattr(self, name) for name in unread_options(method)},
            {name: parameter.default for name, parameter in parameters.items()},
            "the mask is a FisherMask made before"
            if method == "given"
            else f'mask="{method}" does not read it',
        )

    def _in_common(self, n_select: int, labeled: Any) -> dict[str, str | None]:
        """What all ranks of a query must have been called with, in words."""
        known = None
        if self.group is None:  # else a rank may have no samples of its own
            known = "None" if labeled is None else "given"
        return {
            **packages(),
            **{name: described(getattr(self, name)) for name in _COMPARED},
            "device": described_device(self.device or device_of(self.model)),
            "model": described_model(self.model),
            "n_select": described(n_select),
            "labeled": known,
        }

    def _try_model(self, part: Part, name: str) -> None:
        """One sample through the model, so that a wrong width is found before any work."""
        if not len(part):
            return
        inputs = part.some
        with evaluating(self.model, self.device) as net, torch.no_grad():
            inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
            found = outputs_of_samples(net, inputs, name)
        likelihood_of(self.likelihood).check_shape(found.shape)

    def _warn(self, part: Part) -> None:
        """Tells, once a query each, what looks wrong in outputs and data."""
        if not len(part):
            return
        pool = Pool.of(part.data).subset(part.among(part.places[:2]))
        inputs = pool.first(2)
        found = output_warnings(self.model, inputs, self.likelihood)
        found += scale_warnings(self.model, inputs, self.lamb)
        for text in found + pool_warnings(pool):
            warnings.warn(text, UserWarning, stacklevel=caller_level())

    def _find_head(self, ranks: Ranks, pool: Part, known: Part) -> Head | None:
        """The head's name, from one sample where nobody gave it."""
        if self.head is not None or isinstance(self.mask, FisherMask):
            return self.head
        some = next((part for part in (pool, known) if len(part)), None)

        def find() -> Head | None:
            return None if some is None else find_head(self.model, some.some)

        head: Head | None = ranks.first(ranks.attempt(find))
        return head

    def _mask_size(self, head: Head | None) -> MaskSize | None:
        """How large the mask will be, and why; None where its scores decide."""
        keep_head = self.keep_head and self.mask in METHODS
        return size_of_mask(
            self.model, head, self.fraction, self.n_parameters, str(self.mask), keep_head
        )

    def _make_mask(
        self, ranks: Ranks, pool: Part, known: Part, head: Head | None, progress: bool
    ) -> FisherMask:
        if isinstance(self.mask, FisherMask):
            return self.mask
        if self.mask == "head":
            return FisherMask.head(self.model, () if head is None else head)
        if head is None or not head_parameters(self.model, head):
            why = "no layer was found to be its head" if head is None else f"{head} is frozen"
            logger.warning("the model's head takes no part in the mask: %s", why)
            head = ()
        if self.mask == "random":
            return FisherMask.random(
                self.model, self.fraction, n_parameters=self.n_parameters, seed=self.seed, head=head
            )
        # The samples are drawn from both sets together; each set then gives its share of them.
        n_all = known.n_total + pool.n_total
        n_drawn = min(self.fisher_samples, n_all)
        generator = torch.Generator().manual_seed(int(self.seed))
        from_known = int(
            (torch.randperm(n_all, generator=generator)[:n_drawn] < known.n_total).sum()
        )
        scores: dict[str, Tensor] = {}
        for part, count in ((known, from_known), (pool, n_drawn - from_known)):
            if count == 0:
                continue
            found = ranks.attempt(partial(self._diagonal, part, count, progress))
            for name, value in found.items():
                weighted = ranks.total(value) * (count / n_drawn)
                scores[name] = scores[name] + weighted if name in scores else weighted
        return FisherMask.from_scores(
            scores,
            self.fraction,
            self.mask,
            n_parameters=self.n_parameters,
            model=self.model,
            head=head,
            keep_head=self.keep_head,
        )

    def _diagonal(self, part: Part, count: int, progress: bool) -> dict[str, Tensor]:
        """This process's share of the Fisher diagonal over `count` samples of a data set."""
        drawn = draw(part.n_total, count, torch.Generator().manual_seed(int(self.seed)))
        mine = part.among(drawn)
        if not mine:
            return {n: torch.zeros_like(p) for n, p in trainable(self.model).items()}
        found = fisher_diagonal(
            self.model,
            part.data,
            likelihood=self.likelihood,
            n_samples=len(mine),
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            progress=progress,
            indices=mine,
        )
        share = len(mine) / len(drawn)
        return found if share == 1 else {name: value * share for name, value in found.items()}

    def _gradients(
        self,
        part: Part,
        mask: FisherMask,
        progress: bool,
        out: Any = None,
    ) -> GradientFactors | StoredFactors | None:
        if not len(part):
            return None
        found: GradientFactors | StoredFactors = masked_gradients(
            self.model,
            part.data,
            mask,
            likelihood=self.likelihood,
            weighting=self.weighting,
            rank=self.rank,
            batch_size=self.batch_size,
            device=self.device,
            progress=progress,
            indices=part.indices,
            out=out,
        )
        return found

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds_[step] = self.seconds_.get(step, 0.0) + time.perf_counter() - start


def _fisher(
    ranks: Ranks, factors: GradientFactors | StoredFactors | None, part: Part, mask: FisherMask
) -> Tensor:
    """The mean of V_x^T V_x over a whole data set, (k, k) float64."""
    if factors is None:
        k = len(mask)
        return ranks.total(torch.zeros(k, k, dtype=torch.float64))
    fisher = factors.fisher()
    return fisher if ranks.alone else ranks.total(fisher.mul_(len(part) / part.n_total))


def _place(out: str | os.PathLike[str]) -> str:
    """A file of this machine."""
    return f"{platform.node()}:{os.path.realpath(out)}"


def _has_tqdm() -> bool:
    if importlib.util.find_spec("tqdm") is None:
        logger.warning("progress bars need tqdm: pip install tqdm, or query with progress=False")
        return False
    return True
