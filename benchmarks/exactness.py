"""Are the picks of a large selection those of float64, and those of one pick at a time?

    python benchmarks/exactness.py
    python benchmarks/exactness.py --gradients gradients.pt --data-root data

Without a file the candidates are drawn from the tests' oracle and perturbed. Exits with 1 where
any pick differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from real_gradients import cached, resampled_gradients

from fishermask_fast import select_batch

WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "float64 throughout": {"precision": "float64"},
    "one pick at a time": {"block_size": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gradients", type=Path, help="file of real_gradients.py")
    parser.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--select", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.gradients is None:
        pool = resampled_gradients(arguments.samples)
    else:
        pool = cached(arguments.samples, arguments.gradients, arguments.data_root)
    print(pool.name)
    fisher = pool.factors.fisher()
    first = None
    same = True
    for name, options in WAYS.items():
        start = time.perf_counter()
        found = select_batch(pool.factors, arguments.select, fisher, **options)
        seconds = time.perf_counter() - start
        first = found.indices if first is None else first
        equal = torch.equal(found.indices, first)
        same &= equal
        print(
            f"{name:20} {'the same picks' if equal else 'OTHER PICKS':15} {seconds:7.1f} s,"
            f" {found.passes} passes, state made {found.setups} times"
        )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
