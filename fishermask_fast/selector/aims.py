"""What M, F, V and the gains are to be: the options that a selector and the adapters share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from fishermask_fast.checks import LAMB, check_integer
from fishermask_fast.engine import check_criterion, check_prior
from fishermask_fast.likelihoods import LikelihoodLike, check_rows, likelihood_of, likelihood_with
from fishermask_fast.selector.presets import fill

EVAL_WEIGHTS = ("balanced", "uncovered")


@dataclass(frozen=True)
class Aim:
    """Options of FisherMaskSelector, which says what each means, but for the mask and the means."""

    likelihood: LikelihoodLike = "categorical"
    weighting: str = "fisher"
    rank: int | None = None
    rows: str = "all"
    lamb: float | str = LAMB
    prior_precision: float | str | None = None
    criterion: str = "trace"
    eval_weights: str | Tensor | None = None
    class_weight: str | None = None
    max_per_cluster: int | None = None
    backward_steps: int = 0

    @classmethod
    def of(cls, owner: object, **more: Any) -> Aim:
        """The options that an object holds as attributes of these names, its preset's among them.

        Args:
            owner: a selector's parameters, or an adapter, which may hold some of them alone.
            more: what counts instead of its attributes.
        """
        names = [*(each.name for each in fields(cls)), "preset"]
        held = {name: getattr(owner, name) for name in names if hasattr(owner, name)}
        return cls.filled(**held | more)

    @classmethod
    def filled(cls, **options: Any) -> Aim:
        """Options by name, and what their `preset` says of those that are None or left out."""
        return cls(**fill(options))

    def check(self) -> None:
        """Raise for what is no option, and for what is not defined together.

        Raises:
            TypeError, ValueError: Names the option, what was expected and what came.
        """
        likelihood_of(self.likelihood).check_options(self.weighting, self.rank)
        check_rows(self.rows, self.weighting, self.rank)
        assumed = likelihood_with(self.likelihood, self.rows)
        check_prior(self.lamb, self.prior_precision)
        check_criterion(self.criterion)
        if self.max_per_cluster is not None:
            check_integer("max_per_cluster", self.max_per_cluster, 1)
        if self.class_weight is not None and not (
            isinstance(self.class_weight, str) and self.class_weight == "balanced"
        ):
            raise ValueError(f"class_weight must be None or 'balanced'; got {self.class_weight!r}")
        named = isinstance(self.eval_weights, str)
        if named and self.eval_weights not in EVAL_WEIGHTS:
            raise ValueError(
                f"eval_weights must be {' or '.join(map(repr, EVAL_WEIGHTS))}, or a Tensor of a "
                f"weight a sample; got {self.eval_weights!r}"
            )
        if self.criterion == "logdet" and self.eval_weights is not None:
            raise ValueError("eval_weights play no part in criterion='logdet'; leave them out")
        for name, value in (
            ("class_weight", self.class_weight),
            ("eval_weights", self.eval_weights if named else None),
        ):
            if value == "balanced" and assumed.name != "categorical":
                raise ValueError(
                    f"{name}='balanced' is for likelihood 'categorical'; got {assumed.name!r}"
                )

    def check_query(self, aims: bool, by_factors: bool = False, alone: bool = True) -> None:
        """Raise for what is not defined together.

        Args:
            aims: whether there is eval_data.
            by_factors: whether it is factors.
            alone: whether one process queries.

        Raises:
            ValueError: names both.
        """
        if aims and self.criterion == "logdet":
            raise ValueError("eval_data plays no part in criterion='logdet'; leave it out")
        if by_factors and isinstance(self.eval_weights, str):
            raise ValueError(
                f"eval_weights={self.eval_weights!r} asks the model of samples; factors as "
                "eval_data take a Tensor of weights"
            )
        if not alone and isinstance(self.eval_weights, str) and self.eval_weights == "uncovered":
            raise ValueError("eval_weights='uncovered' is not defined over several processes")
        if not alone and by_factors:
            raise ValueError("eval_data must be data, not factors, over several processes")
