"""What BatchNorm costs on few labels, and what the two guards of the training recipe give back.

    python benchmarks/batch_norm_trap.py --data-root data --out table.md

Trains the small ResNet-18 on 50 to 200 labels of four balanced classes of Fashion-MNIST until 99%
training accuracy, with and without at least 200 steps, with and without running statistics that are
estimated again over the labeled set afterwards. Pool and seeds are the same for all four.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path
from unittest import mock

import torch

from fishermask_fast.datasets import PoolAndTest, load_data
from fishermask_fast.loop.run import train
from fishermask_fast.loop.run.train import evaluate, train_model
from fishermask_fast.models.networks import build_model
from fishermask_fast.options import DataOptions, Recipe


def accuracy(
    data: PoolAndTest, n_labels: int, seed: int, min_steps: int, settle: bool, batch_size: int
) -> tuple[float, int]:
    """Test accuracy and steps of one training on the same number of labels of each class."""
    members = [(data.pool.targets == label).nonzero().flatten() for label in range(4)]
    generator = torch.Generator().manual_seed(seed)
    drawn = [each[torch.randperm(len(each), generator=generator)] for each in members]
    counts = [n_labels // 4 + (label < n_labels % 4) for label in range(4)]
    labeled = torch.cat([each[:count] for each, count in zip(drawn, counts, strict=True)])
    model = build_model("resnet18_small", 4, data.shape, seed)
    recipe = Recipe(train_batch_size=batch_size, min_steps=min_steps)
    keep = train.settle_batch_norm if settle else lambda *_: None
    with mock.patch.object(train, "settle_batch_norm", keep):
        done = train_model(
            model, data.training_set(labeled), data.pool.take(labeled), recipe, seed=seed
        )
    return evaluate(model, data.test, 4).accuracy, done.steps


def main() -> None:
    """Train every combination and write a table of means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = DataOptions(
        "fashion-mnist", root=given.data_root, class_counts=(250,) * 4, test_size=1000
    )
    data = load_data(options)
    lines = [
        f"Test accuracy of resnet18_small on Fashion-MNIST, four classes, batches of up to "
        f"{given.batch_size}, mean of {len(given.seeds)} seeds (least to most); "
        f"torch {torch.__version__}",
        "",
        "| labels | at least | statistics estimated again | steps | test accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for n_labels, min_steps, settle in itertools.product(given.labels, (0, 200), (False, True)):
        found = [
            accuracy(data, n_labels, seed, min_steps, settle, given.batch_size)
            for seed in given.seeds
        ]
        values = [each[0] for each in found]
        steps = [each[1] for each in found]
        lines.append(
            f"| {n_labels} | {min_steps} steps | {'yes' if settle else 'no'} | "
            f"{min(steps)} to {max(steps)} | {statistics.mean(values):.1%} "
            f"({min(values):.1%} to {max(values):.1%}) |"
        )
        print(lines[-1], flush=True)
    if given.out is not None:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
