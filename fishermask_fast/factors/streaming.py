"""Factors that lie elsewhere than they are computed with: in host memory or a file, for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fishermask_fast.arrays import Array
from fishermask_fast.factors.checks import check_part
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.factors.grams import mean_gram

_CHUNK_BYTES = 256 * 2**20


class FactorSource(Protocol):
    """The factors of N samples, in memory or not."""

    def __len__(self) -> int: ...

    @property
    def n_rows(self) -> int: ...

    @property
    def n_columns(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def head_index(self) -> Tensor | None: ...

    @property
    def sample_bytes(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> GradientFactors: ...

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, GradientFactors]]: ...

    def fisher(
        self, chunk_size: int | None = None, weights: Tensor | Array | None = None
    ) -> Tensor: ...


class StreamedFactors:
    """Factors that come to a device in chunks, each while the one before is worked on.

    Host memory that is pinned is read from the device as it is; other memory, and files, go through
    pinned buffers.

    Args:
        source: the factors, on the CPU.
        device: where their chunks and samples go.
        chunk_bytes: of a chunk, of which the device holds three at most; None for 256 MiB.
    """

    def __init__(
        self, source: FactorSource, device: torch.device, chunk_bytes: int | None = None
    ) -> None:
        self._source = source
        self._device = device
        self._size = max(1, (chunk_bytes or _CHUNK_BYTES) // max(source.sample_bytes, 1))
        index = source.head_index
        self._head_index = None if index is None else index.to(device)
        # One for all passes: the allocator keeps what was freed for its stream alone.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._source)

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's factor."""
        return self._source.n_rows

    @property
    def n_columns(self) -> int:
        """Masked parameters k."""
        return self._source.n_columns

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every part."""
        return self._source.dtype

    @property
    def device(self) -> torch.device:
        """Where chunks and samples go."""
        return self._device

    @property
    def head_index(self) -> Tensor | None:
        """As in GradientFactors, on the device."""
        return self._head_index

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return self._source.sample_bytes

    def __getitem__(self, index: Tensor) -> GradientFactors:
        """The factors of some samples, on the device."""
        return self._moved(self._source[index.cpu()])

    def _moved(self, factors: GradientFactors, non_blocking: bool = False) -> GradientFactors:
        def move(part: Tensor) -> Tensor:
            return part.to(self._device, non_blocking=non_blocking)

        return factors.map(move, self._head_index)

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, GradientFactors]]:
        """Consecutive chunks, and where each begins; one is valid until the next is asked for."""
        chunks = self._source.chunks(chunk_size or self._size)
        if self._copies is None:
            for start, chunk in chunks:
                yield start, self._moved(chunk)
            return
        ahead: tuple[int, GradientFactors, torch.cuda.Event] | None = None
        begun: torch.cuda.Event | None = None
        for start, chunk in chunks:
            pinned = _pinned(chunk)
            if begun is not None:
                # All chunks before that one are done with, and their memory is free. A host that
                # did not wait would run ahead and fill the device.
                begun.synchronize()
            with torch.cuda.stream(self._copies):
                loaded = self._moved(pinned, non_blocking=True)
            ready = self._copies.record_event()
            if ahead is not None:
                now = _when_ready(*ahead)
                begun = torch.cuda.current_stream(self._device).record_event()
                yield now
            ahead = (start, loaded, ready)
        if ahead is not None:
            yield _when_ready(*ahead)

    def fisher(
        self, chunk_size: int | None = None, weights: Tensor | Array | None = None
    ) -> Tensor:
        """F = sum_x w_x V_x^T V_x / sum_x w_x, (k, k) float64, on the device.

        Raises:
            TypeError, ValueError: as GradientFactors.
        """
        return mean_gram(self, chunk_size, weights)


def _pinned(factors: GradientFactors) -> GradientFactors:
    return factors.map(lambda part: part if part.is_pinned() else part.pin_memory())


def _when_ready(
    start: int, chunk: GradientFactors, ready: torch.cuda.Event
) -> tuple[int, GradientFactors]:
    """A chunk that the current stream may read."""
    stream = torch.cuda.current_stream(chunk.device)
    stream.wait_event(ready)

    def read(part: Tensor) -> Tensor:
        part.record_stream(stream)
        return part

    return start, chunk.map(read)


def as_factors(gradients: Tensor | GradientFactors) -> GradientFactors:
    """Gradients as factors: a dense (N, r, k) tensor is all `middle`.

    Raises:
        TypeError: not a floating-point tensor or GradientFactors.
        ValueError: not of shape (N, r, k).
    """
    if isinstance(gradients, GradientFactors):
        return gradients
    check_part("gradients", gradients, 3)
    return GradientFactors(gradients.detach())
