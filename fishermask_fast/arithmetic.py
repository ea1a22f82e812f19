"""float32 that is float32: what a process allows torch to round its products to, set aside.

On a GPU torch takes convolutions in TF32 unless told otherwise (10 bits in place of 23), and
`torch.set_float32_matmul_precision("medium")`, which many training scripts call, allows TF32 and
bfloat16 for matrices, on CPUs too. Gradients are then off by a thousandth, and picks are others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = "ieee"


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products in all of their 24 bits, as far as this process can tell its libraries."""
    backends: Any = torch.backends
    kinds = [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    ]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = _EXACT
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
