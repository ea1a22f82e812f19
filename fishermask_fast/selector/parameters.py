"""What a selector was given: checked, compared between ranks, warned of where nothing reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fishermask_fast.checks import check_device, check_flag, check_integer, warn_ignored
from fishermask_fast.distributed import described, described_device, described_model, packages
from fishermask_fast.likelihoods import Likelihood, LikelihoodLike, likelihood_with
from fishermask_fast.masks import METHODS, FisherMask, MaskSize, check_size, size_of_mask
from fishermask_fast.network import (
    Head,
    check_count,
    check_seed,
    device_of,
    head_parameters,
    one_head,
    trainable,
    unwrap,
)
from fishermask_fast.selector.aims import Aim
from fishermask_fast.selector.presets import PUBLISHED, fill

if TYPE_CHECKING:  # builds of torch without torch.distributed lack it
    from torch.distributed import ProcessGroup

MASKS = (*METHODS, "random", "head", "middle")
BY_DIAGONAL = (*METHODS, "middle")
"""Those that take the Fisher diagonal."""

# What all ranks must have in common, besides the model and the device's type.
_COMPARED = (
    "fraction",
    "n_parameters",
    "mask",
    "keep_head",
    "head",
    "likelihood",
    "weighting",
    "preset",
    "lamb",
    "prior_precision",
    "criterion",
    "class_weight",
    "rows",
    "max_per_cluster",
    "backward_steps",
    "fisher_samples",
    "rank",
    "batch_size",
    "seed",
)


def unread_options(mask: str) -> tuple[str, ...]:
    """Options that a way to choose the mask does not read; "given" is a mask made before."""
    return _UNREAD.get(mask, ())


_UNREAD = {
    "relative": ("fraction", "n_parameters"),
    "random": ("keep_head", "fisher_samples"),
    "head": ("fraction", "n_parameters", "keep_head", "fisher_samples"),
    "middle": ("keep_head",),
    "given": ("fraction", "n_parameters", "keep_head", "fisher_samples"),
}


@dataclass(frozen=True)
class Parameters:
    """The parameters of a FisherMaskSelector at the time of a query; it says what each means."""

    model: nn.Module
    fraction: float | None
    n_parameters: int | None
    mask: str | FisherMask
    keep_head: bool
    head: Head | None
    likelihood: LikelihoodLike
    weighting: str
    preset: str
    lamb: float | str | None
    prior_precision: float | str | None
    criterion: str
    eval_weights: str | Tensor | None
    class_weight: str | None
    rows: str
    max_per_cluster: int | None
    backward_steps: int
    fisher_samples: int
    rank: int | None
    batch_size: int | None
    device: torch.device | str | None
    seed: int
    group: ProcessGroup | None

    @property
    def where(self) -> torch.device:
        """The device that computes."""
        return device_of(self.model) if self.device is None else torch.device(self.device)

    @property
    def row_likelihood(self) -> Likelihood:
        """The likelihood whose rows V is made of."""
        return likelihood_with(self.likelihood, self.rows)

    @property
    def scale(self) -> float:
        """What I is multiplied with in M, 1 where it is not known yet."""
        given = self.lamb if self.prior_precision is None else self.prior_precision
        return 1.0 if given is None or isinstance(given, str) else float(given)

    def check(self) -> None:
        """Raise where one is of the wrong type or out of range, or does not suit the model.

        Raises:
            TypeError, ValueError: Names the parameter, what was expected and what came.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be an nn.Module; got {type(self.model).__name__}")
        if not isinstance(self.mask, FisherMask) and not (
            isinstance(self.mask, str) and self.mask in MASKS
        ):
            raise ValueError(
                f"mask must be one of {', '.join(MASKS)} or a FisherMask; got {self.mask!r}"
            )
        self.aim.check()
        check_flag("keep_head", self.keep_head)
        if self.device is not None:
            check_device(self.device)
        check_integer("backward_steps", self.backward_steps, 0)
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
                self.mask_size(head)

    @property
    def aim(self) -> Aim:
        """What adapters ask for as well."""
        return Aim.of(self, preset=PUBLISHED)  # filled already

    def filled(self, by_factors: bool = False) -> Parameters:
        """The same with what the preset says where nothing was given; see `presets.fill`."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **fill(given, by_factors=by_factors))

    def warn_of_ignored(self, defaults: Mapping[str, Any]) -> None:
        """Warn of those that were set and that this way to choose the mask does not read."""
        method = self.mask if isinstance(self.mask, str) else "given"
        warn_ignored(
            {name: getattr(self, name) for name in unread_options(method)},
            defaults,
            "the mask is a FisherMask made before"
            if method == "given"
            else f'mask="{method}" does not read it',
        )

    def in_common(self) -> dict[str, str | None]:
        """What all ranks must have been given alike, in words."""
        return {
            **packages(),
            **{name: described(getattr(self, name)) for name in _COMPARED},
            # Tensors are each rank's own.
            "eval_weights": "given"
            if isinstance(self.eval_weights, Tensor)
            else described(self.eval_weights),
            "device": described_device(self.device or device_of(self.model)),
            "model": described_model(self.model),
        }

    def mask_size(self, head: Head | None) -> MaskSize | None:
        """How large the mask will be, and why; None where its scores decide."""
        keep_head = self.keep_head and self.mask in METHODS
        return size_of_mask(
            self.model, head, self.fraction, self.n_parameters, str(self.mask), keep_head
        )

    def trainable_head(self, head: Head | None) -> tuple[str, ...]:
        """The names of the head's parameters that are not frozen."""
        return () if head is None else head_parameters(self.model, head)
