"""The steps of one query, each on this process's part of the samples."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.checks import caller_level
from fishermask_fast.distributed import NOTHING, Part, Ranks
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.gradients import draw, fisher_diagonal, masked_gradients
from fishermask_fast.likelihoods import likelihood_of
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import (
    Head,
    Pool,
    device_of,
    evaluating,
    find_head,
    head_parameters,
    input_dtype,
    output_warnings,
    outputs_of_samples,
    pool_warnings,
    scale_warnings,
    to_model,
    trainable,
)
from fishermask_fast.selector.parameters import Parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """A selector's parameters and the samples that this process reads.

    Attributes:
        parameters: of the selector, checked.
        ranks: who takes part.
        pool: the unlabeled samples.
        known: the labeled ones.
        progress: whether bars are shown.
        seconds: filled step by step.
        name: what messages call the pool.
    """

    parameters: Parameters
    ranks: Ranks
    pool: Part
    known: Part
    progress: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    name: str = "unlabeled"

    @classmethod
    def of(
        cls,
        parameters: Parameters,
        ranks: Ranks,
        unlabeled: Any,
        labeled: Any,
        progress: bool = False,
    ) -> Query:
        """The query for some data.

        Raises:
            TypeError, ValueError: They are not data sets, or their samples do not suit the model.
        """
        pool = ranks.part(unlabeled, "unlabeled")
        known = NOTHING
        if labeled is not None or parameters.group is not None:
            known = ranks.part(labeled, "labeled")
        return cls(parameters, ranks, pool, known, progress)

    @property
    def some(self) -> Part:
        """The part that has a sample to try, if one has."""
        return self.pool if len(self.pool) else self.known

    def check_samples(self) -> None:
        """One sample of each part through the model, so that a wrong width is found at once.

        Raises:
            ValueError: The model does not take it, or its outputs are not the likelihood's.
        """
        for part, name in ((self.pool, self.name), (self.known, "labeled")):
            self.ranks.attempt(partial(self._check_sample, part, name))

    def _check_sample(self, part: Part, name: str) -> None:
        if not len(part):
            return
        own = self.parameters
        with evaluating(own.model, own.device) as net, torch.no_grad():
            inputs = to_model(part.some, device_of(net), input_dtype(net, part.some))
            found = outputs_of_samples(net, inputs, name)
        likelihood_of(own.likelihood).check_shape(found.shape)

    def warn(self) -> None:
        """Tell, once, what looks wrong in outputs and data."""
        self.ranks.attempt(self._warn)

    def _warn(self) -> None:
        part, own = self.some, self.parameters
        if not len(part):
            return
        samples = Pool.of(part.data).subset(part.among(part.places[:2]))
        inputs = samples.first(2)
        found = output_warnings(own.model, inputs, own.likelihood)
        found += scale_warnings(own.model, inputs, own.lamb)
        for text in found + pool_warnings(samples):
            warnings.warn(text, UserWarning, stacklevel=caller_level())

    def find_head(self) -> Head | None:
        """The head's name, from one sample where nobody gave it."""
        own = self.parameters
        if own.head is not None or isinstance(own.mask, FisherMask):
            return own.head

        def find() -> Head | None:
            return find_head(own.model, self.some.some) if len(self.some) else None

        head: Head | None = self.ranks.first(self.ranks.attempt(find))
        return head

    def make_mask(self, head: Head | None) -> FisherMask:
        """The mask: made before, of the head, at random, or by the Fisher diagonal."""
        own = self.parameters
        if isinstance(own.mask, FisherMask):
            return own.mask
        if own.mask == "head":
            return FisherMask.head(own.model, () if head is None else head)
        if head is None or not head_parameters(own.model, head):
            why = "no layer was found to be its head" if head is None else f"{head} is frozen"
            logger.warning("the model's head takes no part in the mask: %s", why)
            head = ()
        if own.mask == "random":
            return FisherMask.random(
                own.model, own.fraction, n_parameters=own.n_parameters, seed=own.seed, head=head
            )
        return FisherMask.from_scores(
            self._scores(),
            own.fraction,
            own.mask,
            n_parameters=own.n_parameters,
            model=own.model,
            head=head,
            keep_head=own.keep_head,
        )

    def _scores(self) -> dict[str, Tensor]:
        """The Fisher diagonal over samples drawn from both sets together."""
        n_all = self.known.n_total + self.pool.n_total
        n_drawn = min(self.parameters.fisher_samples, n_all)
        generator = torch.Generator().manual_seed(int(self.parameters.seed))
        from_known = int(
            (torch.randperm(n_all, generator=generator)[:n_drawn] < self.known.n_total).sum()
        )
        scores: dict[str, Tensor] = {}
        for part, count in ((self.known, from_known), (self.pool, n_drawn - from_known)):
            if count == 0:
                continue
            found = self.ranks.attempt(partial(self.diagonal, part, count))
            for name, value in found.items():
                weighted = self.ranks.total(value) * (count / n_drawn)
                scores[name] = scores[name] + weighted if name in scores else weighted
        return scores

    def diagonal(self, part: Part, count: int) -> dict[str, Tensor]:
        """This process's share of the Fisher diagonal over `count` samples of a data set."""
        own = self.parameters
        drawn = draw(part.n_total, count, torch.Generator().manual_seed(int(own.seed)))
        mine = part.among(drawn)
        if not mine:
            return {n: torch.zeros_like(p) for n, p in trainable(own.model).items()}
        found = fisher_diagonal(
            own.model,
            part.data,
            likelihood=own.likelihood,
            n_samples=len(mine),
            seed=own.seed,
            batch_size=own.batch_size,
            device=own.device,
            progress=self.progress,
            indices=mine,
        )
        share = len(mine) / len(drawn)
        return found if share == 1 else {name: value * share for name, value in found.items()}

    def gradients(
        self, part: Part, mask: FisherMask, out: Any = None
    ) -> GradientFactors | StoredFactors | None:
        """V of this process's samples of a data set; None where it has none."""
        if not len(part):
            return None
        own = self.parameters
        found: GradientFactors | StoredFactors = masked_gradients(
            own.model,
            part.data,
            mask,
            likelihood=own.likelihood,
            weighting=own.weighting,
            rank=own.rank,
            batch_size=own.batch_size,
            device=own.device,
            progress=self.progress,
            indices=part.indices,
            out=out,
        )
        return found

    def labeled_fisher(self, mask: FisherMask) -> Tensor | None:
        """F_L, whose gradients are gone when this returns; None without labeled samples."""
        if not self.known.n_total:
            return None
        with self.timed("gradients"):
            factors = self.ranks.attempt(partial(self.gradients, self.known, mask))
        with self.timed("fisher"):
            return self._mean_fisher(factors, self.known, mask)

    def fisher(
        self,
        factors: GradientFactors | StoredFactors | None,
        labeled_fisher: Tensor | None,
        mask: FisherMask,
    ) -> Tensor:
        """F over all samples, labeled and unlabeled, (k, k) float64."""
        fisher = self._mean_fisher(factors, self.pool, mask)
        if labeled_fisher is None:
            return fisher
        share = self.known.n_total / (self.known.n_total + self.pool.n_total)
        return torch.lerp(fisher, labeled_fisher, share)

    def _mean_fisher(
        self, factors: GradientFactors | StoredFactors | None, part: Part, mask: FisherMask
    ) -> Tensor:
        """The mean of V_x^T V_x over a whole data set, (k, k) float64."""
        if factors is None:
            k = len(mask)
            return self.ranks.total(torch.zeros(k, k, dtype=torch.float64))
        fisher = factors.fisher()
        if self.ranks.alone:
            return fisher
        return self.ranks.total(fisher.mul_(len(part) / part.n_total))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of some work to those of a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
