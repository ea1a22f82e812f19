"""Pools and test sets for the loop: which data, how many, and how balanced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fishermask_fast.datasets import images, tables
from fishermask_fast.datasets.imbalance import draw_counts, ratio_counts
from fishermask_fast.datasets.rows import TABLE_ENDINGS
from fishermask_fast.datasets.samples import LabeledSamples, PoolAndTest
from fishermask_fast.options import DataOptions, meant

NAMED = (
    "digits",
    *images.TORCHVISION_SETS,
    *tables.TABLES,
    *tables.NUMBERS,
    *tables.TEXTS,
)
"""Data sets that are known by name."""


def load_data(options: DataOptions, progress: bool = False) -> PoolAndTest:
    """Load a pool and a test set.

    Args:
        options: Which.
        progress: Show how far reading images is.

    Raises:
        ValueError: The name is unknown, the data are missing or unreadable, a class is missing
            from the test set, or a size does not fit.
        ModuleNotFoundError: scikit-learn (for its sets) or torchvision is not installed.
    """
    _check_exclusive(options)
    loaded = _load(options)
    pool, test, classes = loaded.pool, loaded.test, loaded.classes
    if loaded.likelihood != "categorical" and (options.class_counts or options.imbalance_ratio):
        raise ValueError(
            f"class_counts and imbalance_ratio are for data of one class a sample; {loaded.name} "
            f"is {loaded.likelihood}"
        )
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
    pool, of_pool = pool.decoded("the pool", progress)
    test, of_test = test.decoded("the test set", progress)
    notes = (*loaded.notes, *of_pool, *of_test)
    return replace(loaded, options=options, classes=classes, pool=pool, test=test, notes=notes)


def _check_exclusive(options: DataOptions) -> None:
    if options.class_counts is not None and options.imbalance_ratio is not None:
        raise ValueError("give class_counts or imbalance_ratio, not both")
    if options.name in NAMED and options.image_size is not None:
        raise ValueError(f"image_size is for folders of images; {options.name} has its own size")
    if options.name in NAMED and options.label_column != "label":
        raise ValueError(f"label_column is for files; {options.name} has its own labels")


def _load(options: DataOptions) -> PoolAndTest:
    name, path = options.name, Path(options.name)
    if name == "digits":
        return images.load_digits(options.seed)
    if name in images.TORCHVISION_SETS:
        return images.load_torchvision(name, options.root, options.download, options.augment)
    if name in tables.TABLES:
        return tables.load_table(name, options.seed)
    if name in tables.NUMBERS:
        return tables.load_numbers(name, options.seed)
    if name in tables.TEXTS:
        return tables.load_newsgroups(options.root, options.download)
    if path.suffix.lower() in TABLE_ENDINGS and path.is_file():
        return tables.load_rows(path, options.seed, options.label_column)
    if path.is_dir():
        size = 32 if options.image_size is None else options.image_size
        return images.load_folder(path, size, options.augment, options.seed)
    raise ValueError(
        f"data must be one of {', '.join(NAMED)} or an existing folder or file "
        f"({', '.join(TABLE_ENDINGS)}); got {name!r}{meant(name, NAMED)}"
    )


def _draw(samples: LabeledSamples, size: int | None, label: str, seed: int) -> LabeledSamples:
    if size is None:
        return samples
    if not 0 < size <= len(samples):
        raise ValueError(f"{label} must be between 1 and {len(samples)}; got {size}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.take(order[:size])
