"""Checks of what a selection is asked for beside its gradients and matrices."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fishermask_fast.arrays import as_tensor, no_numbers, sample_numbers
from fishermask_fast.checks import Default, check_choice, check_positive

CRITERIA = ("trace", "logdet")
# What "auto" is, times tr(F) / k, the mean of what one sample tells of a parameter: in sums the
# prior then counts as one sample, and lamb, which counts for (n_L + K) / K of them, as a tenth.
_AUTO_LAMB = 0.1
_AUTO_PRIOR_PRECISION = 1.0


_logger = logging.getLogger(__name__)


def check_prior(lamb: object, prior_precision: object) -> float | str:
    """Which of the two scales of M's first term is asked for: a number above 0, or "auto".

    Raises:
        TypeError, ValueError: both are given, or one is neither.
    """
    name, value = "lamb", lamb
    if prior_precision is not None:
        if not isinstance(lamb, Default):
            raise ValueError(
                "lamb and prior_precision are two scales of one thing: give one of them; got "
                f"lamb = {lamb!r} and prior_precision = {prior_precision!r}"
            )
        name, value = "prior_precision", prior_precision
    if isinstance(value, str):
        if value != "auto":
            raise TypeError(
                f"{name} must be a number above 0; got {value!r} (the one word it takes is 'auto')"
            )
        return value
    return check_positive(name, value)


def auto_prior(fisher: Tensor, in_sums: bool) -> float:
    """lamb = 0.1 tr(F) / k, or in sums prior_precision = tr(F) / k, which counts as one sample.

    Raises:
        ValueError: F has no trace.
    """
    mean = float(fisher.trace()) / max(len(fisher), 1)
    name, factor = ("lamb", _AUTO_LAMB)
    if in_sums:
        name, factor = ("prior_precision", _AUTO_PRIOR_PRECISION)
    if not (mean > 0 and math.isfinite(mean)):
        raise ValueError(f"{name}='auto' needs fisher with a trace above 0; got {mean:g} k")
    _logger.info("%s = %g, by 'auto'", name, factor * mean)
    return factor * mean


def check_criterion(criterion: object) -> str:
    """One of CRITERIA.

    Raises:
        ValueError: anything else.
    """
    return check_choice("criterion", criterion, CRITERIA)


def check_samples(name: str, given: object) -> Tensor | None:
    """Indices of samples, each once, (p,) int64 on the CPU; None for none.

    Raises:
        TypeError: no integers.
        ValueError: of another shape, negative, or one of them twice.
    """
    if given is None:
        return None
    index = _integers(name, given, "(p,)")
    if len(index) and int(index.min()) < 0:
        raise ValueError(f"{name} must be indices of 0 or more; got {int(index.min())}")
    values, counts = index.unique(return_counts=True)
    if bool((counts > 1).any()):
        raise ValueError(f"{name} names sample {int(values[counts > 1][0])} more than once")
    return index


def check_gains(given: object, n: int) -> Tensor | None:
    """Factors on the gains of n samples, (n,) float64 on the CPU; None for 1.

    Raises:
        TypeError: no numbers.
        ValueError: of another shape, or not above 0 and finite.
    """
    if given is None:
        return None
    gains = as_tensor("gain_weights", given)
    if isinstance(gains, (list, tuple)):
        gains = _from_list("gain_weights", gains)
    hint = " (exclude= bars a sample)"
    expected = f"numbers, ({n},)"
    return sample_numbers("gain_weights", gains, n, expected, above_zero=True, hint=hint).cpu()


def check_clusters(given: object, n: int) -> Tensor | None:
    """The cluster of each of n samples, (n,) int64 on the CPU; None for none.

    Raises:
        TypeError: no integers.
        ValueError: of another shape.
    """
    if given is None:
        return None
    clusters = _integers("cluster_ids", given, f"({n},)")
    if len(clusters) != n:
        raise ValueError(f"cluster_ids must have shape ({n},), one a sample; got {len(clusters)}")
    return clusters


def _integers(name: str, given: object, shape: str) -> Tensor:
    value = as_tensor(name, given)
    if isinstance(value, (list, tuple, range)):
        value = _from_list(name, list(value))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be integers, {shape}; got {type(given).__name__}")
    if value.is_meta:
        raise no_numbers(name, "meta")
    if value.ndim != 1:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(value.shape)}")
    if not value.numel():
        return torch.empty(0, dtype=torch.int64)
    if value.dtype == torch.bool or value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} must be integers, {shape}; got {value.dtype}")
    return value.detach().to("cpu", torch.int64)


def _from_list(name: str, given: Sequence[object]) -> Tensor:
    try:
        return torch.tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers; got {given[:1]!r}, ...") from error
