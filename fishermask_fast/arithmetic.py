"""float32 that is float32: what a process allows torch to round its products to, set aside.

On a GPU torch takes convolutions in TF32 unless told otherwise (10 bits in place of 23), and
`torch.set_float32_matmul_precision("medium")`, which many training scripts call, allows TF32 and
bfloat16 for matrices, on CPUs too. Gradients are then off by a thousandth, and picks are others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = "ieee"


class _Settings:
    """What float32 products may be rounded to, while anybody needs all of it.

    It is the process's: of several threads the first sets it aside, and the last gives it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[str] = []

    def set_aside(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = [kind.fp32_precision for kind in _kinds()]
                for kind in _kinds():
                    kind.fp32_precision = _EXACT
            self._users += 1

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for kind, precision in zip(_kinds(), self._before, strict=True):
                    kind.fp32_precision = precision


_settings = _Settings()


def _kinds() -> list[Any]:
    backends: Any = torch.backends
    return [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    ]


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products in all of their 24 bits, as far as this process can tell its libraries."""
    _settings.set_aside()
    try:
        yield
    finally:
        _settings.give_back()
