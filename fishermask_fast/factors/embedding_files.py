"""A head's factors from embeddings in files, which stay there: V_x = (R_x kron h_x)[mask].

The files, .npy or safetensors, are mapped into memory and read in their order, chunk by chunk; only
the rows R_x are held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fishermask_fast.arrays import Array, as_tensor
from fishermask_fast.checks import check_integer
from fishermask_fast.factors.gradient_factors import GradientFactors
from fishermask_fast.factors.grams import mean_gram
from fishermask_fast.factors.tensor_file import FLOATS, check_places, read_header
from fishermask_fast.files import open_file

_CHUNK_BYTES = 64 * 2**20


class EmbeddingFactors:
    """The factors of a head's samples whose inputs lie in several places, such as mapped files.

    Args:
        hidden: the inputs (n, d) of consecutive samples, in as many parts as there are.
        coupling: (N, r, C) of all samples, float32 or float64.
        head_index: as in GradientFactors.
    """

    def __init__(
        self, hidden: Sequence[Tensor], coupling: Tensor, head_index: Tensor | None = None
    ) -> None:
        self._hidden = list(hidden)
        self._starts = torch.tensor([0, *(len(part) for part in hidden)]).cumsum(0)
        self._coupling = coupling
        self._head_index = head_index
        self._columns = coupling.shape[2] * self._hidden[0].shape[1]

    def __len__(self) -> int:
        return len(self._coupling)

    def __repr__(self) -> str:
        shape = (len(self), self.n_rows, self.n_columns)
        return f"EmbeddingFactors({len(self._hidden)} parts, (N, r, k) = {shape}, {self.dtype})"

    @property
    def n_rows(self) -> int:
        """Rows r of each sample's factor."""
        return self._coupling.shape[1]

    @property
    def n_columns(self) -> int:
        """Masked parameters k."""
        return self._columns if self._head_index is None else self._head_index.numel()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every part as read."""
        return self._coupling.dtype

    @property
    def device(self) -> torch.device:
        """Where what is read goes: the CPU."""
        return self._coupling.device

    @property
    def head_index(self) -> Tensor | None:
        """(k,) int64 positions of the masked entries in the head, as in GradientFactors."""
        return self._head_index

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        numbers = self._coupling[:1].numel() + self._hidden[0].shape[1]
        return self.dtype.itemsize * numbers

    def __getitem__(self, index: Tensor | slice) -> GradientFactors:
        """The factors of some samples in memory, in the order of `index`."""
        places = torch.arange(len(self))[index]
        hidden = self._coupling.new_empty(len(places), self._hidden[0].shape[1])
        owner = torch.searchsorted(self._starts, places, right=True) - 1
        for at in owner.unique().tolist():
            here = (owner == at).nonzero().squeeze(1)
            hidden[here] = self._hidden[at][places[here] - self._starts[at]].to(hidden.dtype)
        return self._factors(self._coupling[places], hidden)

    def _factors(self, coupling: Tensor, hidden: Tensor) -> GradientFactors:
        middle = coupling.new_empty(len(coupling), self.n_rows, 0)
        return GradientFactors(middle, coupling, hidden, self._head_index)

    def chunks(self, chunk_size: int | None = None) -> Iterator[tuple[int, GradientFactors]]:
        """Consecutive chunks, none across two parts, and where each begins."""
        size = max(1, _CHUNK_BYTES // self.sample_bytes)
        if chunk_size is not None:
            size = check_integer("chunk_size", chunk_size, 1)
        return self._chunks(size)

    def _chunks(self, size: int) -> Iterator[tuple[int, GradientFactors]]:
        for begin, part in zip(self._starts.tolist(), self._hidden, strict=False):
            for at in range(0, len(part), size):
                hidden = part[at : at + size].to(self.dtype)
                start = begin + at
                yield start, self._factors(self._coupling[start : start + len(hidden)], hidden)

    def fisher(
        self, chunk_size: int | None = None, weights: Tensor | Array | None = None
    ) -> Tensor:
        """F = sum_x w_x V_x^T V_x / sum_x w_x, (k, k) float64; as of GradientFactors.

        Raises:
            TypeError, ValueError: as GradientFactors.
        """
        return mean_gram(self, chunk_size, weights)


def mapped_parts(given: object) -> list[Tensor] | None:
    """Embeddings of a path, or of several in a row, mapped into memory; None for no paths.

    Raises:
        TypeError: files of another kind than .npy and .safetensors, or of no floating dtype.
        ValueError: a file that does not hold one matrix, or files of different widths.
        OSError: a file cannot be read.
    """
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    if not isinstance(given, (list, tuple)) or not given:
        return None
    if not all(isinstance(path, (str, os.PathLike)) for path in given):
        return None
    parts = [_mapped(Path(path)) for path in given]
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(f"embeddings must have one width in all files; got {widths}")
    return parts


def _mapped(path: Path) -> Tensor:
    tensor: Tensor
    if path.suffix == ".npy":
        os.close(open_file(path, os.O_RDONLY))
        tensor = as_tensor(str(path), np.load(path, mmap_mode="r", allow_pickle=False))
    elif path.suffix == ".safetensors":
        tensor = _safetensors(path)
    else:
        raise TypeError(f"embeddings must lie in .npy or .safetensors files; got {path}")
    if tensor.ndim != 2:
        raise ValueError(f"{path} must hold one matrix (n, d); got shape {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{path} must hold floating-point numbers; got {tensor.dtype}")
    return tensor


def _safetensors(path: Path) -> Tensor:
    """The one tensor of a file, as it lies there."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        header = read_header(descriptor)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error
    finally:
        os.close(descriptor)
    if len(header.tensors) != 1:
        raise ValueError(f"{path} must hold one tensor; got {sorted(header.tensors)}")
    ((name, (dtype, *_)),) = header.tensors.items()
    if dtype not in FLOATS:
        raise TypeError(f"{path} must hold floating-point numbers; got {dtype}")
    try:
        part = header.part(name)
        check_places(header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    raw = np.memmap(path, np.uint8, "r", part.offset, (part.n_bytes,))
    tensor: Tensor = as_tensor(str(path), raw)
    return tensor.view(part.dtype).view(part.shape)
