"""Pools and test sets for the loop: which data, how many, and how balanced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fishermask_fast.datasets import images as sources
from fishermask_fast.datasets import tables as other_sources
from fishermask_fast.datasets.images import Loaded
from fishermask_fast.datasets.imbalance import draw_counts, ratio_counts
from fishermask_fast.datasets.samples import LabelledSamples, Transform

NAMED = ("digits", *sources.TORCHVISION_SETS, *other_sources.TABLES, *other_sources.TEXTS)
"""Data sets that are known by name."""


@dataclass(frozen=True)
class DataOptions:
    """Which samples, and how many of them.

    Attributes:
        name: ``"digits"``; ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"``, ``"svhn"``;
            ``"breast-cancer"``, ``"iris"``, ``"wine"``; ``"20newsgroups"``; the path of a folder
            that holds one folder of images per class, or ``train`` and ``test`` folders of such
            folders; or of a CSV file with a column ``label`` and either a column ``text`` or
            columns of numbers.
        root: Where torchvision and scikit-learn keep what they download.
        download: Let them download a set that is not there.
        image_size: Side of a folder's images, in pixels; 32 unless given. For folders only.
        class_counts: Samples of the first classes that the pool keeps; all other classes are left
            out, of the test set too. (250, 5000, 250, 250) is the published imbalanced pool.
        imbalance_ratio: Samples of the pool's largest class over those of its smallest, with a
            geometric course between the first class and the last.
        pool_size: Keep this many samples of the pool, drawn by ``seed``; all unless given.
        test_size: The same for the test set.
        augment: Train on random crops and flips of photographs (CIFAR-10 and folders).
        seed: Of the split where the data come without one, and of the subsets.
    """

    name: str = "digits"
    root: str = "data"
    download: bool = False
    image_size: int | None = None
    class_counts: tuple[int, ...] | None = None
    imbalance_ratio: float | None = None
    pool_size: int | None = None
    test_size: int | None = None
    augment: bool = True
    seed: int = 0


@dataclass(frozen=True)
class LoopData:
    """A pool to label from and a test set, both read through the evaluation transform.

    Attributes:
        name: For people.
        options: What was asked for.
        kind: ``"images"``, ``"tabular"`` or ``"text"``.
        classes: Names of the classes.
        pool: Samples to label from.
        test: Samples to test on.
        training_transform: What training reads the pool through.
        vocabulary: Word ids of a text, 0 for other kinds.
    """

    name: str
    options: DataOptions
    kind: str
    classes: tuple[str, ...]
    pool: LabelledSamples
    test: LabelledSamples
    training_transform: Transform
    vocabulary: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), (features,) or (words,)."""
        source = self.pool.source
        if isinstance(source, Tensor):
            return tuple(source.shape[1:])
        return (3, source.size, source.size)

    def training_set(self, indices: Tensor) -> LabelledSamples:
        """The pool's samples at ``indices``, decoded once, seen through the training transform."""
        stored = self.pool.stored(indices.tolist())
        return LabelledSamples(stored, self.pool.targets[indices], self.training_transform)


def load_data(options: DataOptions) -> LoopData:
    """Load a pool and a test set.

    Raises:
        ValueError: The name is unknown, the data are missing or unreadable, a class is missing
            from the test set, or a size does not fit.
        ModuleNotFoundError: scikit-learn (for its sets) or torchvision is not installed.
    """
    _check_exclusive(options)
    loaded = _load(options)
    pool, test, classes = loaded.pool, loaded.test, loaded.classes
    if options.class_counts is not None:
        n_classes = len(options.class_counts)
        if not 2 <= n_classes <= len(classes):
            raise ValueError(
                f"class_counts must name 2 to {len(classes)} classes; got {n_classes} counts"
            )
        pool = pool.take(draw_counts(pool.targets, options.class_counts, classes, options.seed))
        test = test.take((test.targets < n_classes).nonzero().flatten())
        classes = classes[:n_classes]
    elif options.imbalance_ratio is not None:
        available = torch.bincount(pool.targets, minlength=len(classes)).tolist()
        counts = ratio_counts(available, options.imbalance_ratio, options.pool_size)
        pool = pool.take(draw_counts(pool.targets, counts, classes, options.seed))
    if options.imbalance_ratio is None:
        pool = _draw(pool, options.pool_size, "pool_size", options.seed)
    test = _draw(test, options.test_size, "test_size", options.seed)
    return LoopData(
        loaded.name,
        options,
        loaded.kind,
        classes,
        pool.decoded(),
        test.decoded(),
        loaded.training_transform,
        loaded.vocabulary,
    )


def _check_exclusive(options: DataOptions) -> None:
    if options.class_counts is not None and options.imbalance_ratio is not None:
        raise ValueError("give class_counts or imbalance_ratio, not both")
    if options.name in NAMED and options.image_size is not None:
        raise ValueError(f"image_size is for folders of images; {options.name} has its own size")


def _load(options: DataOptions) -> Loaded:
    name, path = options.name, Path(options.name)
    if name == "digits":
        return sources.load_digits(options.seed)
    if name in sources.TORCHVISION_SETS:
        return sources.load_torchvision(name, options.root, options.download, options.augment)
    if name in other_sources.TABLES:
        return other_sources.load_table(name, options.seed)
    if name in other_sources.TEXTS:
        return other_sources.load_newsgroups(options.root, options.download)
    if path.suffix.lower() == ".csv" and path.is_file():
        return other_sources.load_csv(path, options.seed)
    if path.is_dir():
        size = 32 if options.image_size is None else options.image_size
        return sources.load_folder(path, size, options.augment, options.seed)
    raise ValueError(
        f"data must be one of {', '.join(NAMED)} or an existing folder or .csv file; got {name!r}"
    )


def _draw(samples: LabelledSamples, size: int | None, label: str, seed: int) -> LabelledSamples:
    if size is None:
        return samples
    if not 0 < size <= len(samples):
        raise ValueError(f"{label} must be between 1 and {len(samples)}; got {size}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.take(order[:size])
