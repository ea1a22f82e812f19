"""Who picks, by which mask, and with what numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeGuard, get_args

from cyclopts import Parameter

StrategyName = Literal[
    "fishermask",
    "fishermask_entropy",
    "fishermask_coverage",
    "bait",
    "random",
    "entropy",
    "margin",
    "least_confidence",
    "coreset",
    "badge",
    "uherding",
    "typiclust",
]
STRATEGIES: tuple[str, ...] = get_args(StrategyName)
"""Names of the strategies, each a function of ``fishermask_fast.strategies``."""

MaskName = Literal["global", "per_layer", "relative", "random", "head", "middle"]
MASKS: tuple[str, ...] = get_args(MaskName)
"""Ways to choose parameters; ``"middle"`` is all layers but the head."""


LikelihoodName = Literal["categorical", "bernoulli", "gaussian"]

PresetName = Literal["published", "recommended"]

AS_TYPED = Parameter(show_default=lambda values: " ".join(map(str, values)))
"""Of several values: the help shows the default as one would type it."""


@dataclass(frozen=True)
class SampleOptions:
    """What is asked of single samples; see ``FisherMaskSelector.query``.

    Attributes:
        pending: Places, in the whole pool, of samples that are at the annotators.
        exclude: Likewise of samples that are not picked.
        cluster_ids: Of each sample of this process's part of the pool.
        max_per_cluster: How many of a cluster may be picked.
        gain_weights: Of each sample of this process's part of the pool.
        labels: Of this process's labeled samples, places of their classes among the outputs.
        eval_data: Whose uncertainty is to fall: this process's part of a data set.
    """

    pending: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    cluster_ids: tuple[int, ...] | None = None
    max_per_cluster: int | None = None
    gain_weights: tuple[float, ...] | None = None
    labels: tuple[int, ...] | None = None
    eval_data: Any = None

    @property
    def barred(self) -> set[int]:
        """Samples that are not picked, whoever picks."""
        return {*self.pending, *self.exclude}

    def for_query(self) -> dict[str, Any]:
        """Arguments of a query, those that were given."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        del given["max_per_cluster"]
        return {name: value for name, value in given.items() if value is not None and value != ()}


@Parameter(name="*", group="Picking")
@dataclass(frozen=True)
class QueryOptions:
    """What strategies may need beyond model and data; see ``FisherMaskSelector``.

    Attributes:
        fraction: Share of the parameters that the mask keeps (default: 0.002, at least twice the
            head, at most 4,096 parameters or the head and 512).
        n_parameters: How many parameters the mask keeps, instead of a share.
        mask: How fishermask chooses parameters.
        keep_head: Keep the head's parameters whole, or let them compete with all others.
        likelihood: What the outputs are: logits of one class, logits of labels each for itself, or
            means of numbers (default: as the data set has it, else categorical).
        head: Name of the layer that gives the logits (default: read from them).
        weighting: Gradients times sqrt(p), or as they are.
        preset: What lamb and eval-weights are where they are left out: 1 and all samples alike, as
            published, or, recommended, auto and balanced.
        lamb: lambda I is where M starts; auto is 0.1 tr(F) / k (default: the preset's).
        prior_precision: The same with M in sums, instead of lamb, or auto.
        criterion: What picks change most: tr(M^-1 F), or log det M.
        rows: All rows of each sample, or one for the likeliest class against the rest.
        eval_weights: Whose uncertainty is to fall: each class alike, or what labels leave
            uncovered (default: the preset's).
        class_weight: Favour classes of few labels.
        fisher_samples: Samples behind the mask.
        rank: Rows per sample's factor (default: exact).
        batch_size: Samples of a gradient batch.
        progress: Show how far a query is.
        group: Processes that query together, each with its own part of the pool, as
            ``FisherMaskSelector`` takes them.
        samples: What is asked of single samples.
    """

    fraction: float | None = None
    n_parameters: int | None = None
    mask: MaskName = "global"
    keep_head: bool = True
    likelihood: LikelihoodName | None = None
    head: str | None = None
    weighting: Literal["fisher", "none"] = "fisher"
    preset: PresetName = "published"
    lamb: float | Literal["auto"] | None = None
    prior_precision: float | Literal["auto"] | None = None
    criterion: Literal["trace", "logdet"] = "trace"
    rows: Literal["all", "top_class"] = "all"
    eval_weights: Literal["balanced", "uncovered"] | None = None
    class_weight: Literal["balanced"] | None = None
    fisher_samples: int = 1024
    rank: int | None = None
    batch_size: int | None = None
    progress: Annotated[bool, Parameter(parse=False)] = False
    group: Annotated[Any, Parameter(parse=False)] = None
    samples: Annotated[Any, Parameter(parse=False)] = SampleOptions()

    def __post_init__(self) -> None:
        # Whoever picks: who reads an option may look further, and judges its words.
        for name in ("n_parameters", "fisher_samples", "rank", "batch_size"):
            value = getattr(self, name)
            if _is_number(value) and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        for name in ("lamb", "prior_precision"):
            value = getattr(self, name)
            if _is_number(value) and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number above 0; got {value}")
        if _is_number(self.fraction) and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1]; got {self.fraction}")
        if self.fraction is not None and self.n_parameters is not None:
            raise ValueError(
                "give fraction or n_parameters, not both; got "
                f"{self.fraction!r} and {self.n_parameters!r}"
            )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
