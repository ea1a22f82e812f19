"""The published code's own function signatures, so that replacing an import is enough.

Both take X (N, C, k), the gradients of the unlabelled pool as a tensor or, as the published scripts
have them, a numpy array, `fisher` and `iterates` (k, k), the mean Fisher matrices of all and of the
labelled samples, on any device, and return a list of K indices into X. What is computed stands in
selection.py.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fishermask_fast.selection import fast_select

_logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


def select(
    X: Tensor | Array,
    K: int,
    fisher: Tensor,
    iterates: Tensor,
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
        TypeError, ValueError: as fast_select.
    """
    if savefile is not None or alg is not None:
        _logger.info("savefile and alg have no effect: nothing is written during a selection")
    gradients = torch.from_numpy(X) if isinstance(X, np.ndarray) else X
    return fast_select(
        gradients,
        K,
        _beside(gradients, fisher),
        _beside(gradients, iterates) if nLabeled else None,
        lamb=lamb,
        n_labeled=nLabeled,
        backward_steps=backwardSteps,
        chunk_size=chunkSize,
    )


def fresh_select(
    X: Tensor | Array,
    K: int,
    fisher: Tensor,
    iterates: Tensor,
    lamb: float = 1,
    backwardSteps: int = 0,
    nLabeled: int = 0,
) -> list[int]:
    """FisherMask's selection on one device.

    Raises:
        TypeError, ValueError: as fast_select.
    """
    gradients = torch.from_numpy(X) if isinstance(X, np.ndarray) else X
    return fast_select(
        gradients,
        K,
        _beside(gradients, fisher),
        _beside(gradients, iterates) if nLabeled else None,
        lamb=lamb,
        n_labeled=nLabeled,
        backward_steps=backwardSteps,
    )


def _beside(gradients: Tensor, matrix: Tensor) -> Tensor:
    """The matrix on the gradients' device; what is no tensor is left for fast_select to refuse."""
    both = isinstance(gradients, Tensor) and isinstance(matrix, Tensor)
    return matrix.to(gradients.device) if both else matrix
