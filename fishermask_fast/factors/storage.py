"""Gradient factors on disk, for pools larger than memory.

The factors of N samples lie in one safetensors file and are read by samples: a chunk at a time in
file order, the next one while the caller works on this one, or some samples by index.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fishermask_fast.arrays import Array
from fishermask_fast.checks import check_integer, check_path
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.factors.grams import mean_gram
from fishermask_fast.factors.sound import Sound, Written
from fishermask_fast.factors.tensor_file import (
    drop_pages,
    empty_rows,
    outline,
    plan_file,
    read_layout,
    read_rows,
    read_samples,
    write_rows,
    write_start,
)
from fishermask_fast.files import open_file, written_whole

_CHUNK_BYTES = 64 * 2**20


class StoredFactors:
    """The masked gradients of N samples in a safetensors file, which is never read as a whole.

    Parts are named and shaped as in `GradientFactors`: middle, and where a head is kept apart
    coupling, hidden and head_index. The file must not change while this object lives: samples are
    compared with the checksum that they were written with when they are first read, and again where
    the file's time stamps have changed. Files of other writers have time stamps alone.

    Args:
        path: a file that `save_factors` or `masked_gradients(..., out=path)` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no safetensors file, one that is cut short or damaged, or parts that are
            missing, of no floating dtype, or do not fit together; where it is read, one that has
            changed since it was opened.

    Example:
        >>> import torch
        >>> from fishermask_fast import GradientFactors, StoredFactors, fast_select, save_factors
        >>> factors = GradientFactors(torch.randn(20, 2, 5))
        >>> stored = save_factors(factors, "gradients.safetensors")
        >>> stored = StoredFactors("gradients.safetensors")
        >>> len(stored), len(fast_select(stored, 3))
        (20, 3)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path("path", path)
        self._descriptor = open_file(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._sound = Sound(self._descriptor, str(self.path))
        try:
            self._layout = read_layout(self._descriptor)
            self._outline = outline(self._descriptor, self._layout)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{self.path} does not hold gradient factors: {error}") from error

    def __len__(self) -> int:
        return len(self._outline)

    def __reduce__(self) -> tuple[Callable[[Path, str], StoredFactors], tuple[Path, str]]:
        return _reopened, (self.path, self._layout.identity)

    def __repr__(self) -> str:
        shape = (len(self), self.n_rows, self.n_columns)
        return f"StoredFactors({str(self.path)!r}, (N, r, k) = {shape}, {self.dtype})"

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's factor."""
        return self._outline.n_rows

    @property
    def n_columns(self) -> int:
        """Masked parameters k."""
        return self._outline.n_columns

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every part, in the file and as read."""
        return self._outline.dtype

    @property
    def device(self) -> torch.device:
        """Where what is read goes: the CPU."""
        return self._outline.device

    @property
    def head_index(self) -> Tensor | None:
        """(k_head,) int64 positions of the masked entries in the head, as in GradientFactors."""
        return self._outline.head_index

    @property
    def metadata(self) -> dict[str, str]:
        """What the file's header says besides."""
        return self._layout.metadata

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return self._outline.sample_bytes

    def default_chunk_size(self) -> int:
        """Samples in 64 MiB of the file."""
        return max(1, _CHUNK_BYTES // max(self.sample_bytes, 1))

    def __getitem__(self, index: int | slice | Tensor) -> GradientFactors:
        """The factors of some samples in memory, in the order of `index`.

        Args:
            index: an int, which keeps the leading axis; a slice; or a tensor (n,) of indices, or
                (N,) of bools.

        Raises:
            IndexError: a sample that is not there, or a tensor of other dtype or shape.
        """
        if isinstance(index, slice):
            samples = range(*index.indices(len(self)))
            if samples.step == 1:
                return self._range(samples.start, max(samples.start, samples.stop))
            return self._gather(torch.tensor(samples, dtype=torch.int64))
        if isinstance(index, Tensor) and index.ndim:
            return self._gather(self._positions(index))
        at = operator.index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"sample {at} of {len(self)}")
        at %= len(self)
        return self._range(at, at + 1)

    def _positions(self, index: Tensor) -> Tensor:
        """Samples 0..N-1 that a tensor names, (n,) int64."""
        n = len(self)
        if index.dtype == torch.bool and index.shape == (n,):
            return index.cpu().nonzero().flatten()
        if index.ndim != 1 or index.dtype == torch.bool or index.dtype.is_floating_point:
            raise IndexError(
                f"index must be a 1-d tensor of samples, or of {n} bools; got {index.dtype} "
                f"{tuple(index.shape)}"
            )
        index = index.to("cpu", torch.int64)
        wrong = (index < -n) | (index >= n)
        if bool(wrong.any()):
            raise IndexError(f"sample {int(index[wrong][0])} of {n}")
        return torch.where(index < 0, index + n, index)

    def _factors(self, rows: dict[str, Tensor]) -> GradientFactors:
        return GradientFactors(
            rows["middle"], rows.get("coupling"), rows.get("hidden"), self.head_index
        )

    def _range(self, start: int, stop: int) -> GradientFactors:
        rows = empty_rows(self._layout, stop - start)
        self._read(start, rows)
        self._check(range(start, stop))
        return self._factors(rows)

    def _read(self, start: int, rows: dict[str, Tensor]) -> None:
        with self._naming_the_file():
            read_rows(self._descriptor, self._layout, start, rows)

    def _gather(self, index: Tensor) -> GradientFactors:
        rows = empty_rows(self._layout, len(index))
        places = index.argsort()
        with self._naming_the_file():
            read_samples(
                self._descriptor, self._layout, index[places].tolist(), places.tolist(), rows
            )
        self._check(index.tolist())
        return self._factors(rows)

    def _check(self, samples: Iterable[int]) -> None:
        with self._naming_the_file():
            self._sound.check(self._layout, samples)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise ValueError(f"{self.path} was cut short while in use: {error}") from error

    def chunks(
        self, chunk_size: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, GradientFactors]]:
        """Consecutive chunks in the file's order, the next one being read meanwhile.

        Chunks share two buffers: one is valid until the next one is asked for. Clone what is to be
        kept.

        Args:
            chunk_size: samples a chunk; None for 64 MiB of the file.
            start: first sample.
            stop: sample after the last; None for all.

        Yields:
            (index of its first sample, chunk of at most `chunk_size` samples).

        Raises:
            ValueError: sizes out of range, or a file that has been cut short since it was opened.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors, save_factors
            >>> factors = GradientFactors(torch.randn(20, 2, 5))
            >>> stored = save_factors(factors, "gradients.safetensors")
            >>> [(start, len(chunk)) for start, chunk in stored.chunks(8)]
            [(0, 8), (8, 8), (16, 4)]
        """
        size = self.default_chunk_size()
        if chunk_size is not None:
            size = check_integer("chunk_size", chunk_size, 1)
        stop = len(self) if stop is None else check_integer("stop", stop, 0)
        start = check_integer("start", start, 0)
        if not start <= stop <= len(self):
            raise ValueError(
                f"start and stop must satisfy start <= stop <= {len(self)}; got {start}, {stop}"
            )
        return self._stream(range(start, stop, size))

    def _stream(self, starts: range) -> Iterator[tuple[int, GradientFactors]]:
        size = min(starts.step, starts.stop - starts.start)
        buffers = [empty_rows(self._layout, size) for _ in starts[:2]]
        with ThreadPoolExecutor(1, thread_name_prefix="fishermask_fast reader") as reader:

            def read(number: int) -> Future[GradientFactors]:
                return reader.submit(
                    self._read_chunk, buffers[number % 2], starts[number], starts.stop
                )

            reading = read(0) if starts else None
            for number, start in enumerate(starts):
                assert reading is not None
                chunk = reading.result()
                if number + 1 < len(starts):
                    reading = read(number + 1)
                yield start, chunk

    def _read_chunk(self, buffer: dict[str, Tensor], start: int, stop: int) -> GradientFactors:
        n = min(len(buffer["middle"]), stop - start)
        rows = {name: part[:n] for name, part in buffer.items()}
        self._read(start, rows)
        self._check(range(start, start + n))
        if self._layout.outgrows_memory:
            drop_pages(self._descriptor, self._layout, start, n)
        return self._factors(rows)

    def fisher(
        self, chunk_size: int | None = None, weights: Tensor | Array | None = None
    ) -> Tensor:
        """F = sum_x w_x V_x^T V_x / sum_x w_x, (k, k) float64; as of GradientFactors.

        Args:
            chunk_size: samples read at a time.
            weights: (N,) numbers of 0 or more; None for the mean over the samples.

        Raises:
            TypeError, ValueError: as GradientFactors.

        Example:
            >>> import torch
            >>> from fishermask_fast import GradientFactors, save_factors
            >>> factors = GradientFactors(torch.randn(20, 2, 5))
            >>> stored = save_factors(factors, "gradients.safetensors")
            >>> stored.fisher().shape
            torch.Size([5, 5])
        """
        return mean_gram(self, chunk_size, weights)


def save_factors(factors: GradientFactors, path: str | os.PathLike[str]) -> StoredFactors:
    """Writes factors to one safetensors file, whole or not at all.

    Raises:
        TypeError: no GradientFactors, or no path.
        ValueError: the path of a folder.
        OSError: the file cannot be written.

    Example:
        >>> import torch
        >>> from fishermask_fast import GradientFactors, save_factors
        >>> factors = GradientFactors(torch.randn(20, 2, 5))
        >>> stored = save_factors(factors, "gradients.safetensors")
        >>> stored.n_columns
        5
    """
    if not isinstance(factors, GradientFactors):
        raise TypeError(f"factors must be GradientFactors; got {type(factors).__name__}")
    path = check_path("path", path)
    header, layout = plan_file(factors, len(factors), {})
    with written_whole(path) as file:
        write_start(file.fileno(), header, layout, factors.head_index)
        written = Written(file.fileno(), layout)
        size = max(1, _CHUNK_BYTES * len(factors) // layout.size)
        for start, chunk in factors.chunks(size):
            write_rows(file.fileno(), layout, start, chunk)
            written.add(start, start + len(chunk))
        written.seal()
    return StoredFactors(path)


def _reopened(path: Path, identity: str) -> StoredFactors:
    """The file that another process, or an earlier one, had open.

    Raises:
        ValueError: another file has come to be at the path.
    """
    stored = StoredFactors(path)
    if stored._layout.identity != identity:
        raise ValueError(f"{path} holds other gradients than when it was opened first")
    return stored
