"""The seconds of every step of one query: a small ResNet-18 on Fashion-MNIST images.

    python benchmarks/query.py --data-root data

Trains on 500 images, as real_gradients.py does, then picks from images that the network has not
seen, and writes a dated JSON file. Training is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from real_gradients import N_LABELED, trained_network
from records import write_record

from fishermask_fast import FisherMaskSelector, build_info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="where torchvision keeps its sets")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--select", type=int, default=200)
    parser.add_argument(
        "--output", type=Path, help="JSON file; dated in benchmarks/results if none"
    )
    arguments = parser.parse_args()
    trained = trained_network(arguments.samples, arguments.data_root)
    selector = FisherMaskSelector(trained.model)
    start = time.perf_counter()
    found = selector.query(trained.unlabeled, arguments.select, trained.labeled, progress=False)
    total = time.perf_counter() - start
    print(f"{arguments.samples} images, {N_LABELED} labeled, {len(found)} picks: {total:.1f} s")
    for step, seconds in selector.seconds_.items():
        print(f"  {step:10} {seconds:7.2f} s {seconds / total:6.1%}")
    record = {
        "threads": torch.get_num_threads(),
        "instruction_set": build_info().instruction_set,
        "torch": torch.__version__,
        "samples": arguments.samples,
        "select": arguments.select,
        "seconds": total,
        "steps": selector.seconds_,
    }
    write_record("query", record, arguments.output)


if __name__ == "__main__":
    main()
