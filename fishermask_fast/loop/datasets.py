"""Images for the loop: digits, torchvision's sets by name, any folder of images.

Images are kept as they are stored (uint8) and transformed when read. Gradients, masks and
accuracies read them through the evaluation transform; only training sees the training transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

Transform = Callable[[Tensor], Tensor]

TORCHVISION_SETS = {"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
DIGITS_TEST_SHARE = 500 / 1797
FOLDER_TEST_SHARE = 0.2
# Channel means and deviations of ImageNet, the usual choice for photographs of unknown origin.
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FolderImages:
    """Images of a folder, decoded when read: shorter side resized to ``size``, centre cropped."""

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths = list(paths)
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms.v2 import functional

        path = self.paths[index]
        try:
            image = functional.pil_to_tensor(default_loader(path))
        except OSError as error:
            raise ValueError(f"cannot read image {path}: {error}") from error
        image = functional.resize(image, [self.size], antialias=True)
        cropped: Tensor = functional.center_crop(image, [self.size, self.size])
        return cropped


Source = Tensor | FolderImages


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Stored images with their labels, seen through one transform.

    Args:
        source: uint8 (N, channels, height, width), or images decoded when read.
        targets: int64 (N,) class indices.
        transform: From one uint8 image to what the network reads.
    """

    def __init__(self, source: Source, targets: Tensor, transform: Transform) -> None:
        self.source = source
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source[index]), int(self.targets[index])

    def take(self, indices: Tensor) -> LabelledImages:
        """The images at ``indices`` (int64), in that order."""
        source: Source
        if isinstance(self.source, Tensor):
            source = self.source[indices]
        else:
            paths = [self.source.paths[i] for i in indices.tolist()]
            source = FolderImages(paths, self.source.size)
        return LabelledImages(source, self.targets[indices], self.transform)


@dataclass(frozen=True)
class DataOptions:
    """Which images, and how many of them.

    Attributes:
        name: ``"digits"``, ``"fashion-mnist"``, ``"cifar10"``, or the path of a folder that holds
            one folder of images per class, or ``train`` and ``test`` folders of such folders.
        root: Where torchvision keeps its sets.
        download: Let torchvision download a set that is not there.
        image_size: Side of a folder's images, in pixels; 32 unless given. For folders only.
        pool_size: Keep this many images of the pool, drawn by ``seed``; all unless given.
        test_size: The same for the test set.
        augment: Train on random crops and flips of photographs (CIFAR-10 and folders).
        seed: Of the split where the data come without one, and of the subsets.
    """

    name: str = "digits"
    root: str = "data"
    download: bool = False
    image_size: int | None = None
    pool_size: int | None = None
    test_size: int | None = None
    augment: bool = True
    seed: int = 0


@dataclass(frozen=True)
class LoopData:
    """A pool to label from and a test set, both read through the evaluation transform."""

    name: str
    options: DataOptions
    classes: tuple[str, ...]
    pool: LabelledImages
    test: LabelledImages
    training_transform: Transform

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        source = self.pool.source
        if isinstance(source, Tensor):
            return (source.shape[1], source.shape[2], source.shape[3])
        return (3, source.size, source.size)

    def training_set(self, indices: Tensor) -> LabelledImages:
        """The pool's images at ``indices``, decoded once, seen through the training transform."""
        source = self.pool.source
        stored = torch.stack([source[i] for i in indices.tolist()])
        return LabelledImages(stored, self.pool.targets[indices], self.training_transform)


def load_data(options: DataOptions) -> LoopData:
    """Load a pool and a test set.

    Raises:
        ValueError: The name is unknown, the data are missing or unreadable, a class is missing
            from the test set, or a size does not fit.
        ModuleNotFoundError: scikit-learn (for the digits) or torchvision is not installed.
    """
    named = options.name == "digits" or options.name in TORCHVISION_SETS
    if named and options.image_size is not None:
        raise ValueError(f"image_size is for folders of images; {options.name} has its own size")
    if options.name == "digits":
        data = _load_digits(options)
    elif named:
        data = _load_torchvision(options)
    elif Path(options.name).is_dir():
        data = _load_folder(options)
    else:
        known = ", ".join(["digits", *TORCHVISION_SETS])
        raise ValueError(f"data must be one of {known} or an existing folder; got {options.name!r}")
    pool = _draw(data.pool, options.pool_size, "pool_size", options.seed)
    test = _draw(data.test, options.test_size, "test_size", options.seed)
    return replace(data, pool=pool, test=test)


def _draw(images: LabelledImages, size: int | None, label: str, seed: int) -> LabelledImages:
    if size is None:
        return images
    if not 0 < size <= len(images):
        raise ValueError(f"{label} must be between 1 and {len(images)}; got {size}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.take(order[:size])


def _load_digits(options: DataOptions) -> LoopData:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    # 16 grey levels, 0 to 16: times 15 they fill a byte without rounding.
    images = torch.as_tensor(values * 15).to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    pool, test = _split(targets, DIGITS_TEST_SHARE, options.seed)
    transform = _evaluation_transform(*_channel_statistics(images[pool]))
    return LoopData(
        "digits",
        options,
        tuple(str(digit) for digit in range(10)),
        LabelledImages(images[pool], targets[pool], transform),
        LabelledImages(images[test], targets[test], transform),
        transform,
    )


def _load_torchvision(options: DataOptions) -> LoopData:
    from torchvision import datasets

    name, root, download = options.name, options.root, options.download
    make = getattr(datasets, TORCHVISION_SETS[name])
    try:
        sets = [make(root=root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        if download:
            raise ValueError(f"could not download {name} to {root}: {error}") from error
        raise ValueError(
            f"{name} is not in {root}; this downloads it: "
            f"fishermask-fast run --data {name} --data-root {root} --download"
        ) from error
    tensors = [_stored_images(each.data) for each in sets]
    mean, std = _channel_statistics(tensors[0])
    transform = _evaluation_transform(mean, std)
    training = transform
    if options.augment and name == "cifar10":
        training = _augmenting_transform(tensors[0].shape[-1], mean, std)
    pool, test = (
        LabelledImages(images, torch.as_tensor(each.targets, dtype=torch.int64), transform)
        for images, each in zip(tensors, sets, strict=True)
    )
    return LoopData(name, options, tuple(sets[0].classes), pool, test, training)


def _load_folder(options: DataOptions) -> LoopData:
    folder = Path(options.name)
    size = 32 if options.image_size is None else options.image_size
    if size < 1:
        raise ValueError(f"image_size must be at least 1; got {size}")
    parts = [folder / "train", folder / "test"]
    if all(part.is_dir() for part in parts):
        (paths, targets, classes), (test_paths, test_targets, test_classes) = map(_scan, parts)
        if classes != test_classes:
            raise ValueError(
                f"{parts[0]} and {parts[1]} must hold the same class folders; only one of them has "
                f"{', '.join(sorted(set(classes) ^ set(test_classes)))}"
            )
    else:
        paths, targets, classes = _scan(folder)
        pool, test = _split(targets, FOLDER_TEST_SHARE, options.seed)
        test_paths, test_targets = [paths[i] for i in test.tolist()], targets[test]
        paths, targets = [paths[i] for i in pool.tolist()], targets[pool]
    transform = _evaluation_transform(PHOTO_MEAN, PHOTO_STD)
    training = _augmenting_transform(size, PHOTO_MEAN, PHOTO_STD) if options.augment else transform
    return LoopData(
        folder.resolve().name,
        options,
        tuple(classes),
        LabelledImages(FolderImages(paths, size), targets, transform),
        LabelledImages(FolderImages(test_paths, size), test_targets, transform),
        training,
    )


def _scan(folder: Path) -> tuple[list[str], Tensor, list[str]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} must hold one folder of images per class (or train and test folders of "
            f"such folders): {error}"
        ) from error
    if len(found.classes) < 2:
        raise ValueError(f"{folder} must hold at least two class folders; got {found.classes}")
    paths = [path for path, _ in found.samples]
    return paths, torch.tensor(found.targets, dtype=torch.int64), list(found.classes)


def _split(targets: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of pool and test, both sorted; the same share of every class goes to the test set."""
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets.unique().tolist():
        members = (targets == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"every class needs at least 2 images to split into pool and test; class number "
                f"{label} has {len(members)}"
            )
        n_test = max(1, round(test_share * len(members)))
        in_test[members[torch.randperm(len(members), generator=generator)[:n_test]]] = True
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def _stored_images(data: Any) -> Tensor:
    """torchvision's ``.data``, (N, H, W) tensor or (N, H, W, C) array, as uint8 (N, C, H, W)."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()


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


def _evaluation_transform(mean: Sequence[float], std: Sequence[float]) -> Transform:
    from torchvision.transforms import v2

    transform: Transform = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    )
    return transform


def _augmenting_transform(size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    from torchvision.transforms import v2

    transform: Transform = v2.Compose(
        [
            v2.RandomCrop(size, padding=size // 8),
            v2.RandomHorizontalFlip(),
            _evaluation_transform(mean, std),
        ]
    )
    return transform
