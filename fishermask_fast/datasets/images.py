"""Images by name: scikit-learn's digits, torchvision's sets, folders of one's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fishermask_fast.datasets.downloads import fetched
from fishermask_fast.datasets.folders import Note, images_by_class, summary
from fishermask_fast.datasets.samples import FolderImages, LabeledSamples, PoolAndTest, Transform
from fishermask_fast.options import PHOTO_MEAN, PHOTO_STD

logger = logging.getLogger(__name__)

TORCHVISION_SETS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "svhn": "SVHN",
}
DIGITS_TEST_SHARE = 500 / 1797
FOLDER_TEST_SHARE = 0.2


def load_digits(seed: int) -> PoolAndTest:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, 500 of them to test on."""
    from sklearn import datasets

    values, labels = datasets.load_digits(return_X_y=True)
    # 16 grey levels, 0 to 16: times 15 they fill a byte without rounding.
    images = torch.as_tensor(values * 15).to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    pool, test = split(targets, DIGITS_TEST_SHARE, seed)
    transform = evaluation_transform(*_channel_statistics(images[pool]))
    return PoolAndTest(
        "digits",
        "images",
        tuple(str(digit) for digit in range(10)),
        LabeledSamples(images[pool], targets[pool], transform),
        LabeledSamples(images[test], targets[test], transform),
        transform,
    )


def load_torchvision(name: str, root: str, download: bool, augment: bool) -> PoolAndTest:
    """One of ``TORCHVISION_SETS``, with its own split.

    Raises:
        ValueError: The set is not there, or could not be downloaded.
    """
    from torchvision import datasets

    make = getattr(datasets, TORCHVISION_SETS[name])
    parts: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    if name == "svhn":
        parts = [{"split": "train"}, {"split": "test"}]
    with fetched(name, root, download):
        sets = [make(root=root, download=download, **part) for part in parts]
    tensors = [_stored_images(each.data) for each in sets]
    mean, std = _channel_statistics(tensors[0])
    transform = evaluation_transform(mean, std)
    training = transform
    if augment and name == "cifar10":
        training = augmenting_transform(tensors[0].shape[-1], mean, std)
    targets = [
        torch.as_tensor(each.labels if name == "svhn" else each.targets, dtype=torch.int64)
        for each in sets
    ]
    pool, test = (
        LabeledSamples(images, labels, transform)
        for images, labels in zip(tensors, targets, strict=True)
    )
    classes = getattr(sets[0], "classes", [str(digit) for digit in range(10)])
    return PoolAndTest(name, "images", tuple(classes), pool, test, training)


def load_folder(folder: Path, size: int, augment: bool, seed: int) -> PoolAndTest:
    """A folder of class folders, split class by class, or ``train`` and ``test`` of such.

    Raises:
        ValueError: The folders do not fit, or the size is below 1.
    """
    if size < 1:
        raise ValueError(f"image_size must be at least 1; got {size}")
    parts = [folder / "train", folder / "test"]
    if all(part.is_dir() for part in parts):
        (paths, targets, classes, notes), (test_paths, test_targets, test_classes, more) = map(
            _scan, parts
        )
        notes += more
        if classes != test_classes:
            raise ValueError(
                f"{parts[0]} and {parts[1]} must hold the same class folders; only one of them has "
                f"{', '.join(sorted(set(classes) ^ set(test_classes)))}"
            )
    else:
        paths, targets, classes, notes = _scan(folder)
        pool, test = split(targets, FOLDER_TEST_SHARE, seed)
        test_paths, test_targets = [paths[i] for i in test.tolist()], targets[test]
        paths, targets = [paths[i] for i in pool.tolist()], targets[pool]
    transform = evaluation_transform(PHOTO_MEAN, PHOTO_STD)
    training = augmenting_transform(size, PHOTO_MEAN, PHOTO_STD) if augment else transform
    return PoolAndTest(
        folder.resolve().name,
        "images",
        tuple(classes),
        LabeledSamples(FolderImages(paths, size), targets, transform),
        LabeledSamples(FolderImages(test_paths, size), test_targets, transform),
        training,
        notes=tuple(notes),
    )


def _scan(folder: Path) -> tuple[list[str], Tensor, list[str], list[Note]]:
    found, notes = images_by_class(folder)
    for line in summary(notes):
        logger.warning(line)
    if len(found) < 2:
        raise ValueError(
            f"{folder} must hold one folder of images per class, at least two of them (or train "
            f"and test folders of such folders); found {', '.join(found) or 'none'}"
        )
    paths = [str(path) for members in found.values() for path in members]
    sizes = torch.tensor([len(members) for members in found.values()])
    return paths, torch.arange(len(found)).repeat_interleave(sizes), list(found), notes


def split(targets: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of pool and test, both sorted; the same share of every class goes to the test set.

    Raises:
        ValueError: A class has fewer than two samples.
    """
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets.unique().tolist():
        members = (targets == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"every class needs at least 2 samples to split into pool and test; class number "
                f"{label} has {len(members)}"
            )
        n_test = max(1, round(test_share * len(members)))
        in_test[members[torch.randperm(len(members), generator=generator)[:n_test]]] = True
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def _stored_images(data: Any) -> Tensor:
    """torchvision's ``.data`` as uint8 (N, C, H, W); it keeps (N, H, W), (N, H, W, 3) or that."""
    images = torch.as_tensor(data)
    if images.dim() == 3:
        return images.unsqueeze(1)
    return images if images.shape[1] == 3 else images.permute(0, 3, 1, 2).contiguous()


def _channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of uint8 images (N, C, H, W), on the scale 0 to 1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = share @ values
        means.append(mean.item())
        deviations.append((share @ (values - mean).square()).sqrt().item())
    return means, deviations


def evaluation_transform(mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Images on the scale 0 to 1, less the mean and over the deviation of each channel."""
    from torchvision.transforms import v2

    return Transform(
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    )


def augmenting_transform(size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """The same of a random crop of the padded image, flipped at random."""
    from torchvision.transforms import v2

    steps = [
        v2.RandomCrop(size, padding=size // 8),
        v2.RandomHorizontalFlip(),
        evaluation_transform(mean, std).apply,
    ]
    return Transform(v2.Compose(steps), random=True)
