"""Samples that a function makes into batches, such as a tokenizer or somebody's own transform."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from fishermask_fast.datasets import as_bytes, read_rgb
from fishermask_fast.labeling.checkpoints import Prepare
from fishermask_fast.network import count_samples, model_inputs


class Prepared(Dataset[Any]):
    """Samples as the network takes them.

    Args:
        raw: Samples as they are stored.
        prepare: From a list of them to a batch: a tensor (n, ...), or a dictionary of such.
    """

    def __init__(self, raw: Sequence[Any], prepare: Prepare) -> None:
        self.raw = raw
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples, prepared together: what a DataLoader asks a batch of."""
        stored = [self.raw[i] for i in indices]
        try:
            batch = model_inputs(self.prepare(stored))
        # Somebody's function can fail with anything.
        except Exception as error:
            raise ValueError(
                f"what prepares samples failed: {type(error).__name__}: {error}"
            ) from error
        n = len(indices)
        if count_samples(batch) != n:
            raise ValueError(
                f"what prepares samples must give a row for each of {n}; got {count_samples(batch)}"
            )
        if isinstance(batch, Tensor):
            return list(batch)
        for key, value in batch.items():
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
                raise ValueError(
                    f"what prepares samples must give tensors with a row for each of {n} samples; "
                    f"{key!r} is none"
                )
        return [{key: value[i] for key, value in batch.items()} for i in range(n)]


class ImageFiles(Sequence[Tensor]):
    """Images as their files hold them, uint8 (3, height, width), decoded when read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return as_bytes(read_rgb(str(self.paths[index]))[0])
