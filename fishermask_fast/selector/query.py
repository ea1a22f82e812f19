"""The steps of one query, each on this process's part of the samples."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.checks import caller_level
from fishermask_fast.distributed import NOTHING, Part, Ranks
from fishermask_fast.factors import GradientFactors, StoredFactors, check_weights
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
    predict,
    scale_warnings,
    to_model,
    trainable,
)
from fishermask_fast.selector.labels import class_counts
from fishermask_fast.selector.parameters import Parameters
from fishermask_fast.selector.targets import (
    balanced_weights,
    scarce_class_weights,
    uncovered_weights,
)

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
        aim: the samples of eval_data, where these are data.
    """

    parameters: Parameters
    ranks: Ranks
    pool: Part
    known: Part
    progress: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    name: str = "unlabeled"
    aim: Part = NOTHING

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

    @property
    def aimed(self) -> Part:
        """Whose uncertainty is to fall: the samples of eval_data, or the pool's."""
        return self.aim if self.aim.n_total else self.pool

    def check_eval_weights(self, given: Any) -> None:
        """Raise where weights were given that are not one for each of those samples.

        Args:
            given: factors that were given as eval_data, or None.

        Raises:
            TypeError, ValueError: See ``fisher(weights=)``.
        """
        weights = self.parameters.eval_weights
        n = len(self.aimed) if given is None else len(given)
        if n and not isinstance(weights, str):
            check_weights(weights, n, torch.device("cpu"), "eval_weights")

    def check_aim(self) -> None:
        """Raise where eval_data hold no sample on any rank.

        Raises:
            ValueError: says so.
        """
        if not self.aim.n_total:
            raise ValueError("eval_data hold no samples; expected at least one, or None")

    def check_samples(self) -> int:
        """One sample of each part through the model, so that a wrong width is found at once.

        Returns:
            How many outputs it has; 0 where this process has no samples.

        Raises:
            ValueError: The model does not take it, or its outputs are not the likelihood's.
        """
        named = ((self.pool, self.name), (self.known, "labeled"), (self.aim, "eval_data"))
        found = [self.ranks.attempt(partial(self._check_sample, *each)) for each in named]
        return max(found)

    def _check_sample(self, part: Part, name: str) -> int:
        if not len(part):
            return 0
        own = self.parameters
        with evaluating(own.model, own.device) as net, torch.no_grad():
            inputs = to_model(part.some, device_of(net), input_dtype(net, part.some))
            found = outputs_of_samples(net, inputs, name)
        likelihood_of(own.likelihood).check_shape(found.shape)
        return found.shape[1] if found.ndim > 1 else 1

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
        found += scale_warnings(own.model, inputs, own.scale)
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
            if own.mask == "middle" and head is None:
                raise ValueError(
                    'mask "middle" leaves the head out, and no layer was found to be it: name it '
                    "with head="
                )
            why = "no layer was found to be its head" if head is None else f"{head} is frozen"
            logger.warning("the model's head takes no part in the mask: %s", why)
            head = ()
        if own.mask == "random":
            return FisherMask.random(
                own.model, own.fraction, n_parameters=own.n_parameters, seed=own.seed, head=head
            )
        if own.mask == "middle":
            return self._middle_mask(head)
        return FisherMask.from_scores(
            self._scores(),
            own.fraction,
            own.mask,
            n_parameters=own.n_parameters,
            model=own.model,
            head=head,
            keep_head=own.keep_head,
        )

    def _middle_mask(self, head: Head) -> FisherMask:
        """The largest of all entries outside the head."""
        own, scores = self.parameters, self._scores()
        size = own.mask_size(head)
        assert size is not None
        for name in own.trainable_head(head):
            # Below what any Fisher diagonal has: where other layers' entries are zero too.
            scores[name] = torch.full_like(scores[name], -1.0)
        mask = FisherMask.from_scores(
            scores, n_parameters=size.k, model=own.model, head=head, keep_head=False
        )
        return replace(mask, method="middle", reason=size.reason)

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

    def diagonal(self, part: Part, count: int, expectation: str = "exact") -> dict[str, Tensor]:
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
            expectation=expectation,
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
            rows=own.rows,
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

    def target(
        self, factors: GradientFactors | StoredFactors | None, mask: FisherMask, given: Any
    ) -> Tensor:
        """F of those whose uncertainty is to fall, (k, k) float64.

        Args:
            factors: of the pool, which they are where there is no eval_data.
            mask: of the query.
            given: factors that were given as eval_data, or None.
        """
        part = self.aimed
        if given is not None:
            factors = given
        elif self.aim.n_total:
            with self.timed("gradients"):
                factors = self.ranks.attempt(partial(self.gradients, part, mask))
        weights = self.eval_weights(part)
        if self.ranks.alone:
            assert factors is not None
            return factors.fisher(weights=weights).cpu()
        k = len(mask)
        fisher, total = torch.zeros(k, k, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        if factors is not None:
            total += len(factors) if weights is None else weights.sum().double()
        if factors is not None and total > 0:
            fisher = self.ranks.attempt(lambda: factors.fisher(weights=weights)).cpu() * total
        else:
            self.ranks.attempt(lambda: None)
        return self.ranks.total(fisher) / self.ranks.total(total)

    def eval_weights(self, part: Part) -> Tensor | None:
        """The weights of those whose uncertainty is to fall, (n,)."""
        asked = self.parameters.eval_weights
        if not isinstance(asked, str):
            return asked
        if asked == "balanced":
            p = self.probabilities(part)
            return balanced_weights(p, self.ranks.total(p.sum(0)) / part.n_total)
        features, labeled = self._features(part), self._features(self.known)
        return uncovered_weights(features, labeled.reshape(len(labeled), features.shape[1]))

    def probabilities(self, part: Part) -> Tensor:
        """p of this process's samples of a data set, (n, C) float64."""
        widths = self.ranks.attempt(lambda: self._predict(part, hidden=False)[0].exp())
        # A rank without samples knows no number of classes.
        width = self.ranks.first(widths.shape[1] if len(part) else None)
        return widths if len(part) else widths.new_zeros(0, width)

    def _features(self, part: Part) -> Tensor:
        return self._predict(part, hidden=True)[1]

    def _predict(self, part: Part, *, hidden: bool) -> tuple[Tensor, Tensor]:
        if not len(part):
            none = torch.zeros(0, 0, dtype=torch.float64)
            return none, none
        own = self.parameters
        return predict(
            own.model,
            part.data,
            own.batch_size,
            hidden=hidden,
            head=own.head,
            indices=part.indices,
        )

    def scarcity(self, labels: Any) -> Tensor:
        """Factors on the pool's gains that favour classes of few labels, (n,) float64.

        Args:
            labels: of this process's labeled samples; None to read them beside the inputs.
        """
        p = self.probabilities(self.pool)
        counts = self.ranks.attempt(lambda: class_counts(self.known, labels, p.shape[1]))
        return scarce_class_weights(p, self.ranks.total(counts))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of some work to those of a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
