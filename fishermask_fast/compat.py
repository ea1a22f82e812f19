"""The published codes' own function signatures, so that replacing an import is enough.

All take X (N, r, k), the gradients of the unlabeled pool, `fisher` and `iterates` (k, k), the mean
Fisher matrices of all and of the labeled samples, as tensors on any device or as arrays, and
return a list of K indices into X. What is computed stands in selection.py.

Gradients are scaled by sqrt(K / (nLabeled + K)), as the papers' M has it and BAIT's code does; a
revision of FisherMask's code leaves this out, which weighs a batch more the more labels there are.
"""

from __future__ import annotations

import logging
from numbers import Real
from typing import Any

from torch import Tensor

from fishermask_fast.arrays import Array, as_tensor
from fishermask_fast.checks import check_integer
from fishermask_fast.selection import fast_select

_logger = logging.getLogger(__name__)


def select(
    X: Tensor | Array,
    K: int,
    fisher: Tensor | Array,
    iterates: Tensor | Array,
    savefile: object = None,
    alg: object = None,
    lamb: float = 1,
    backwardSteps: int = 0,
    nLabeled: int = 0,
    chunkSize: int = 200,
) -> list[int]:
    """FisherMask's selection over several devices.

    `savefile` and `alg`, which named its log files, are accepted and have no effect; `chunkSize`
    bounds memory and does not change the picks.

    Raises:
        TypeError: a number for savefile, which is fresh_select's lamb in that place; otherwise as
            fast_select.
        ValueError: as fast_select.

    Example:
        >>> import torch
        >>> from fishermask_fast import compat
        >>> X = torch.randn(50, 3, 8)
        >>> fisher, iterates = torch.einsum("nrk,nrl->kl", X, X) / 50, torch.zeros(8, 8)
        >>> len(compat.select(X, 5, fisher, iterates, "log.txt", "FISH", nLabeled=0))
        5
    """
    if isinstance(savefile, Real) and not isinstance(savefile, bool):
        raise TypeError(
            f"savefile must be a path or None; got {savefile!r}. In fresh_select lamb, "
            "backwardSteps and nLabeled stand in its place; here give savefile and alg first"
        )
    if savefile is not None or alg is not None:
        _logger.info("savefile and alg have no effect: nothing is written during a selection")
    return _select(X, K, fisher, iterates, lamb, backwardSteps, nLabeled, chunkSize)


def fresh_select(
    X: Tensor | Array,
    K: int,
    fisher: Tensor | Array,
    iterates: Tensor | Array,
    lamb: float = 1,
    backwardSteps: int = 0,
    nLabeled: int = 0,
) -> list[int]:
    """FisherMask's selection on one device.

    Raises:
        TypeError, ValueError: as fast_select.

    Example:
        >>> import torch
        >>> from fishermask_fast import compat
        >>> X = torch.randn(50, 3, 8)
        >>> fisher, iterates = torch.einsum("nrk,nrl->kl", X, X) / 50, torch.zeros(8, 8)
        >>> len(compat.fresh_select(X, 5, fisher, iterates))
        5
    """
    return _select(X, K, fisher, iterates, lamb, backwardSteps, nLabeled)


def bait_select(
    X: Tensor | Array,
    K: int,
    fisher: Tensor | Array,
    iterates: Tensor | Array,
    lamb: float = 1,
    *positional: int,
    backwardSteps: int = 1,
    nLabeled: int = 0,
) -> list[int]:
    """BAIT's selection, in both signatures that its `select` was published with.

    Where `backwardSteps` is named it says by how many K to oversample before samples are dropped
    again, as in `select(X, K, fisher, iterates, lamb=1, backwardSteps=0, nLabeled=0)`. Where it
    is not, 2 K samples are picked and K dropped, as in `select(X, K, fisher, iterates, lamb=1,
    nLabeled=0)`.

    Args:
        X: see this module's head; likewise K, fisher and iterates.
        lamb: lambda of M.
        *positional: backwardSteps and nLabeled, both. One alone means backwardSteps in one of the
            signatures and nLabeled in the other, and is refused.
        backwardSteps: b: (1 + b) K samples are picked, then b K dropped.
        nLabeled: how many samples are labeled.

    Raises:
        TypeError: six positional arguments, or more than seven; otherwise as fast_select.
        ValueError: as fast_select.

    Example:
        >>> import torch
        >>> from fishermask_fast import compat
        >>> X = torch.randn(50, 3, 8)
        >>> fisher, iterates = torch.einsum("nrk,nrl->kl", X, X) / 50, torch.zeros(8, 8)
        >>> len(compat.bait_select(X, 5, fisher, iterates))  # 10 picked, 5 of them dropped
        5
    """
    if positional:
        if len(positional) != 2:
            raise TypeError(
                "bait_select takes 4, 5 or 7 positional arguments; a sixth alone is backwardSteps "
                "in one of BAIT's signatures and nLabeled in the other, so name it; got "
                f"{5 + len(positional)}"
            )
        backwardSteps, nLabeled = positional
    return _select(X, K, fisher, iterates, lamb, backwardSteps, nLabeled)


def _select(
    x: object,
    n_select: int,
    fisher: object,
    iterates: object,
    lamb: float,
    backward_steps: int,
    n_labeled: int,
    chunk_size: int | None = None,
) -> list[int]:
    n_labeled = check_integer("nLabeled", n_labeled, 0)
    gradients = as_tensor("gradients", x)
    indices: list[int] = fast_select(
        gradients,
        n_select,
        _beside(gradients, as_tensor("fisher", fisher)),
        # The published codes take a matrix of zeros, or any other, where nothing is labeled.
        _beside(gradients, as_tensor("iterates", iterates)) if n_labeled else None,
        lamb=lamb,
        n_labeled=n_labeled,
        backward_steps=backward_steps,
        chunk_size=chunk_size,
    )
    return indices


def _beside(gradients: Any, matrix: Any) -> Any:
    """The matrix on the gradients' device; what is no tensor is left for fast_select to refuse."""
    if not isinstance(gradients, Tensor) or not isinstance(matrix, Tensor):
        return matrix
    return matrix if matrix.is_meta else matrix.to(gradients.device)
