"""Which samples the loop labels from and tests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

# Channel means and deviations of ImageNet, the usual choice for photographs of unknown origin.
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@Parameter(name="*", group="Data")
@dataclass(frozen=True)
class DataOptions:
    """Which samples, and how many of them.

    Attributes:
        name: digits, mnist, fashion-mnist, cifar10, svhn, breast-cancer, iris, wine, 20newsgroups,
            multilabel (several labels a sample), diabetes (a regression); a folder that holds one
            folder of images per class (or train and test folders of such); or a file (.csv,
            .jsonl, .parquet) with a column of labels, and a column text or others of numbers and
            categories.
        root: Where downloaded sets are kept.
        download: Download a set that is missing.
        label_column: Of a file: the column of the labels.
        image_size: Side of a folder's images, in pixels (default: 32).
        class_counts: Samples that the pool keeps of its first classes, such as 250 5000 250 250;
            the other classes are left out, of the test set too.
        imbalance_ratio: Largest class of the pool over the smallest, with a geometric course
            between the first class and the last.
        pool_size: Samples to label from, drawn by the seed (default: all).
        test_size: Samples to test on, drawn by the seed (default: all).
        augment: Train on cifar10 and folders with random crops and flips.
        seed: Of the split where the data come without one, and of the subsets.
    """

    name: Annotated[str, Parameter(name="--data")] = "digits"
    root: Annotated[str, Parameter(name="--data-root")] = "data"
    download: bool = False
    label_column: str = "label"
    image_size: int | None = None
    class_counts: tuple[int, ...] | None = None
    imbalance_ratio: float | None = None
    pool_size: int | None = None
    test_size: int | None = None
    augment: bool = True
    seed: Annotated[int, Parameter(parse=False)] = 0
