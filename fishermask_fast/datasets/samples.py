"""Labeled samples as they are stored, and how they are read.

Images are kept as uint8, or as float32 where grey has more levels, and transformed when read.
Gradients, masks and accuracies read through the evaluation transform; only training sees the
training transform. Numbers and word ids are stored as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fishermask_fast.datasets.folders import CONVERTED, SKIPPED, Note, summary
from fishermask_fast.datasets.pixels import as_bytes, read_rgb
from fishermask_fast.options import DataOptions, LikelihoodName
from fishermask_fast.progress import watched

logger = logging.getLogger(__name__)

Apply = Callable[[Tensor], Tensor]
Watch = Callable[[Iterable[Any]], Iterable[Any]]
LARGEST_DECODED = 2**31
"""Bytes of images that are kept decoded; beyond it they are decoded each time they are read."""


@dataclass(frozen=True)
class Transform:
    """From stored samples to what the network reads.

    Attributes:
        apply: The function.
        random: Whether it draws; then each sample goes through it alone.
    """

    apply: Apply
    random: bool = False

    def __call__(self, stored: Tensor) -> Tensor:
        """Transformed samples (n, ...) of stored ones (n, ...)."""
        if self.random:
            return torch.stack([self.apply(each) for each in stored])
        return self.apply(stored)


IDENTITY = Transform(lambda stored: stored)


class FolderImages:
    """Images of a folder, decoded when read: shorter side resized to ``size``, centre cropped.

    Args:
        paths: Files.
        size: Side of the square.
        eight_bits: Whether grey with more levels is rounded to the 256 of a byte, which is said.
    """

    def __init__(self, paths: Sequence[str], size: int, eight_bits: bool = False) -> None:
        self.paths = list(paths)
        self.size = size
        self.eight_bits = eight_bits

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        """An image, and what was converted."""
        from torchvision.transforms.v2 import functional

        path = self.paths[index]
        try:
            image, converted = read_rgb(path)
            if self.eight_bits and image.is_floating_point():
                image, converted = as_bytes(image), (*converted, "rounded to 8 bits")
            # Of a long strip only the middle is ever seen, and all of it may not fit into memory.
            image = functional.center_crop(image, _middle(image, 16))
            image = functional.resize(image, [self.size], antialias=True)
        # A damaged file can fail in the decoder of its format, with whatever that raises.
        except Exception as error:
            raise ValueError(f"cannot read image {path}: {error}") from error
        return functional.center_crop(image, [self.size, self.size]), converted

    def read(self, watch: Watch = iter, keep: bool = True) -> ReadFiles:
        """Read each image once.

        Args:
            watch: What the results pass through, such as a progress bar.
            keep: Keep them decoded where they fit into memory.
        """

        def attempt(index: int) -> tuple[Tensor | None, tuple[str, ...]] | ValueError:
            try:
                image, converted = self._read(index)
            except ValueError as error:
                return error
            fits = keep and len(self) * image.nbytes <= LARGEST_DECODED
            return image if fits else None, converted

        with ThreadPoolExecutor() as threads:
            found = list(watch(threads.map(attempt, range(len(self)))))
        errors = {i: each for i, each in enumerate(found) if isinstance(each, ValueError)}
        whole = [(i, each) for i, each in enumerate(found) if not isinstance(each, ValueError)]
        converted = {i: each[1] for i, each in whole if each[1]}
        source: Source = FolderImages([self.paths[i] for i, _ in whole], self.size)
        decoded = [image for _, (image, _) in whole if image is not None]
        if decoded and len(decoded) == len(whole):
            source = _stacked(decoded)
        return ReadFiles(source, errors, converted)


def notes_of(paths: Sequence[str], files: ReadFiles) -> tuple[Note, ...]:
    """A note for each file that cannot be read, and for each thing done to the values of one."""
    unread = [(i, SKIPPED, str(e.__cause__ or e)) for i, e in files.errors.items()]
    converted = [(i, CONVERTED, how) for i, each in files.converted.items() for how in each]
    return tuple(Note(Path(paths[i]), what, why) for i, what, why in unread + converted)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """Images as one tensor: uint8, or float32 on the scale 0 to 1 where one of them is."""
    if len({image.dtype for image in images}) > 1:
        from torchvision.transforms.v2 import functional

        images = [functional.to_dtype(image, torch.float32, scale=True) for image in images]
    return torch.stack(list(images))


def _middle(image: Tensor, longest: int) -> list[int]:
    """[height, width] of an image, the longer at most ``longest`` times the shorter."""
    most = longest * min(image.shape[-2:])
    return [min(side, most) for side in image.shape[-2:]]


Source = Tensor | FolderImages


@dataclass(frozen=True)
class ReadFiles:
    """Image files that have been read once.

    Attributes:
        source: Those that can be read, in order, as one tensor where they fit into memory and to be
            decoded when read otherwise.
        errors: By index, what is wrong with the others.
        converted: By index, what was done to the values of a file.
    """

    source: Source
    errors: dict[int, ValueError]
    converted: dict[int, tuple[str, ...]]


Label = int | list[float]
"""A class, or numbers: 0 or 1 of each label, or the targets of a regression."""


class LabeledSamples(Dataset[tuple[Tensor, Label]]):
    """Stored samples with their labels, seen through one transform.

    Args:
        source: (N, ...) stored samples, or images decoded when read.
        targets: int64 (N,) class indices; or float32 (N, C), 0 or 1 of each label, or the numbers
            to predict.
        transform: From stored samples to what the network reads.
    """

    def __init__(self, source: Source, targets: Tensor, transform: Transform) -> None:
        self.source = source
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Label]]:
        """Several samples, transformed together: what a DataLoader asks a batch of."""
        read = self.transform(self.stored(indices))
        return list(zip(read, self.targets[list(indices)].tolist(), strict=True))

    def stored(self, indices: Sequence[int]) -> Tensor:
        """The samples at ``indices`` as they are stored, (n, ...)."""
        if isinstance(self.source, Tensor):
            return self.source[list(indices)]
        return _stacked([self.source[i] for i in indices])

    def take(self, indices: Tensor) -> LabeledSamples:
        """The samples at ``indices`` (int64), in that order."""
        source: Source
        if isinstance(self.source, Tensor):
            source = self.source[indices]
        else:
            paths = [self.source.paths[i] for i in indices.tolist()]
            source = FolderImages(paths, self.source.size)
        return LabeledSamples(source, self.targets[indices], self.transform)

    def decoded(
        self, name: str = "images", progress: bool = False
    ) -> tuple[LabeledSamples, tuple[Note, ...]]:
        """Those that can be read, decoded once and for all where they fit into memory; and notes.

        Args:
            name: What to call them where progress is shown.
            progress: Show how far reading is.

        Raises:
            ValueError: None can be read; says which is the first.
        """
        if isinstance(self.source, Tensor):
            return self, ()
        n = len(self)
        files = self.source.read(
            lambda found: watched(found, n, f"reading {name}", "images", progress)
        )
        notes = notes_of(self.source.paths, files)
        if len(files.errors) == n:
            first = notes[0]
            raise ValueError(
                f"none of the {n} images of {name} can be read; {first.path}: {first.reason}"
            )
        for line in summary(notes):
            logger.warning(line)
        kept = [i for i in range(n) if i not in files.errors]
        return LabeledSamples(files.source, self.targets[kept], self.transform), notes


@dataclass(frozen=True)
class PoolAndTest:
    """A pool to label from and a test set, both read through the evaluation transform.

    Attributes:
        name: For people.
        kind: ``"images"``, ``"tabular"`` or ``"text"``.
        classes: Names of the classes.
        pool: Samples to label from.
        test: Samples to test on.
        training_transform: What training reads the pool through.
        vocabulary: Word ids of a text, 0 for other kinds.
        likelihood: What a network's outputs are of the labels: ``"categorical"`` (of classes),
            ``"bernoulli"`` (of several labels) or ``"gaussian"`` (of a regression).
        options: What was asked for.
        notes: Files that were left out, followed or converted, and why.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    pool: LabeledSamples
    test: LabeledSamples
    training_transform: Transform
    vocabulary: int = 0
    likelihood: LikelihoodName = "categorical"
    options: DataOptions = DataOptions()
    notes: tuple[Note, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), (features,) or (words,)."""
        source = self.pool.source
        if isinstance(source, Tensor):
            return tuple(source.shape[1:])
        return (3, source.size, source.size)

    def training_set(self, indices: Tensor) -> LabeledSamples:
        """The pool's samples at ``indices``, decoded once, seen through the training transform."""
        stored = self.pool.stored(indices.tolist())
        return LabeledSamples(stored, self.pool.targets[indices], self.training_transform)
