"""Seconds and peak memory of masked gradients of torchvision's ResNet-18, 11.2 million parameters.

python benchmarks/gradient_memory.py
"""

from __future__ import annotations

import argparse
import time

import torch
from peak import peak_gib
from torchvision.models import resnet18

from fishermask_fast import FisherMask, fisher_diagonal, masked_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64, help="height and width of an image")
    parser.add_argument("--masked", type=int, default=22_000)
    arguments = parser.parse_args()
    model = resnet18(num_classes=10).eval()
    images = torch.randn(arguments.samples, 3, arguments.size, arguments.size)
    scores = fisher_diagonal(model, images, n_samples=8)
    fraction = arguments.masked / sum(p.numel() for p in model.parameters())
    mask = FisherMask.from_scores(scores, fraction)
    before = peak_gib()
    start = time.perf_counter()
    factors = masked_gradients(model, images, mask)
    seconds = time.perf_counter() - start
    print(f"{len(factors)} images, {factors.n_rows} rows, k = {factors.n_columns}: {seconds:.1f} s")
    print(f"GiB resident: {before:.2f} before, {peak_gib():.2f} at most")


if __name__ == "__main__":
    main()
