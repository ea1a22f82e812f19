"""Real gradients to select from: a small ResNet-18 on Fashion-MNIST, through this package itself.

    python benchmarks/real_gradients.py gradients.pt --samples 1500 --data-root data

Trains on 500 images, masks 0.2% of the network with its head kept, k = 1,402 = 122 + 10 * 128, and
writes the factors of images it has not seen. Without the data set the samples are drawn from the
tests' oracle, which is 1,200 of the same kind, and every number is changed by about a hundredth;
the name says so.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from resampled import Gradients, resampled_gradients
from torch import nn

from fishermask_fast import FisherMask, GradientFactors, fisher_diagonal, masked_gradients
from fishermask_fast.datasets.pools import load_data
from fishermask_fast.datasets.samples import LabeledSamples
from fishermask_fast.loop.run.train import train_model
from fishermask_fast.models.networks import resnet18_small
from fishermask_fast.options import DataOptions, Recipe

N_LABELED = 500
FRACTION = 0.002


@dataclass(frozen=True)
class Trained:
    """A network and the images that it was and was not trained on."""

    model: nn.Module
    labeled: LabeledSamples
    unlabeled: LabeledSamples


def trained_network(n_samples: int, data_root: str, seed: int = 0) -> Trained:
    """The network after training, and the next n_samples images of the pool.

    Raises:
        ValueError: the data set is not there.
    """
    data = load_data(DataOptions("fashion-mnist", root=data_root, seed=seed))
    order = torch.randperm(len(data.pool), generator=torch.Generator().manual_seed(seed))
    labeled, unlabeled = order[:N_LABELED], order[N_LABELED : N_LABELED + n_samples]
    torch.manual_seed(seed)
    model = resnet18_small(len(data.classes), data.shape[0])
    train_model(model, data.training_set(labeled), data.pool.take(labeled), Recipe(), seed=seed)
    return Trained(model, data.pool.take(labeled), data.pool.take(unlabeled))


def trained_gradients(n_samples: int, data_root: str, seed: int = 0) -> Gradients:
    """The masked gradients of images that the network has not seen.

    Raises:
        ValueError: the data set is not there.
    """
    trained = trained_network(n_samples, data_root, seed)
    scores = fisher_diagonal(trained.model, trained.unlabeled, seed=seed)
    mask = FisherMask.from_scores(scores, FRACTION, "global")
    factors = masked_gradients(trained.model, trained.unlabeled, mask)
    return Gradients(factors, f"ResNet-18 on {N_LABELED} Fashion-MNIST images, {n_samples} others")


def make_gradients(n_samples: int, data_root: str, seed: int = 0) -> Gradients:
    """Trained gradients where the data set is there, else resampled ones."""
    try:
        return trained_gradients(n_samples, data_root, seed)
    except ValueError as error:
        if "is not in" not in str(error):
            raise
        return resampled_gradients(n_samples, seed)


def save(gradients: Gradients, path: Path) -> None:
    factors = gradients.factors
    parts = {
        "middle": factors.middle,
        "coupling": factors.coupling,
        "hidden": factors.hidden,
        "head_index": factors.head_index,
    }
    torch.save({"name": gradients.name, **parts}, path)


def load(path: Path) -> Gradients:
    parts = torch.load(path, weights_only=True)
    name = parts.pop("name")
    return Gradients(GradientFactors(**parts), name)


def cached(n_samples: int, path: Path | None, data_root: str) -> Gradients:
    """The first n_samples of the file at `path`; made and kept there where it has fewer."""
    if path is not None and path.exists():
        found = load(path)
        if len(found.factors) >= n_samples:
            return Gradients(found.factors[:n_samples], found.name)
    made = make_gradients(n_samples, data_root)
    if path is not None:
        save(made, path)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    arguments = parser.parse_args()
    made = make_gradients(arguments.samples, arguments.data_root)
    save(made, arguments.path)
    factors = made.factors
    print(f"{made.name}: N = {len(factors)}, r = {factors.n_rows}, k = {factors.n_columns}")


if __name__ == "__main__":
    main()
