"""Picks from millions of embeddings in mapped files, one row a sample: seconds, memory, passes.

The embeddings are made: Gaussian, rotated, of covariance eigenvalues i^-1 (a power law, as those of
trained networks are, not isotropic noise), q = max(softmax) of a random linear head of 100 classes.

    python benchmarks/million.py --folder /tmp/million --samples 1280000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fishermask_fast import build_info, factors_from_embeddings, select_batch

_FILES = 4
_CHUNK = 2**15
_CLASSES = 100


def make(folder: Path, n: int, d: int) -> tuple[list[Path], torch.Tensor]:
    """The files, and q of every sample."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    mix = torch.arange(1, d + 1).float().pow(-0.5)[:, None] * rotation
    head = 3 * torch.randn(d, _CLASSES, generator=generator)
    paths, said = [], []
    for at in range(_FILES):
        size = n * (at + 1) // _FILES - n * at // _FILES
        paths.append(folder / f"{at}.npy")
        out = np.lib.format.open_memmap(paths[-1], "w+", np.float32, (size, d))
        for start in range(0, size, _CHUNK):
            rows = min(_CHUNK, size - start)
            h = torch.randn(rows, d, generator=generator) @ mix
            out[start : start + rows] = h.numpy()
            said.append((h @ head).softmax(1).max(1).values)
        out.flush()
    return paths, torch.cat(said)


def anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_while(work: Any) -> tuple[Any, int]:
    """What some work gives, and the most anonymous memory seen meanwhile."""
    seen, done = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return work(), max(seen)
    finally:
        done.set()
        watcher.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1_280_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--picks", type=int, default=1_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    paths, q = make(options.folder, options.samples, options.width)
    begun = time.perf_counter()

    def select() -> Any:
        factors = factors_from_embeddings(paths, q, rows="top_class")
        return select_batch(factors, options.picks, lamb="auto")

    found, peak = peak_while(select)
    seconds = time.perf_counter() - begun
    size = sum(path.stat().st_size for path in paths)
    n, d = options.samples, options.width
    # Read once each: a look for NaN, F, A and B of a set-up, a pass. Multiply-adds: F n d^2 / 2,
    # B n d^2 / 2 at each set-up, and 2 n d a pick.
    passes = 2 + found.setups + found.passes
    flops = n * d * d * (1 + found.setups) + 4.0 * n * d * options.picks
    record = {
        "samples": n,
        "width": d,
        "picks": options.picks,
        "spectrum": "covariance eigenvalues i^-1",
        "seconds": round(seconds, 1),
        "anonymous_GiB": round(peak / 2**30, 2),
        "peak_rss_GiB_with_mapped_files": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
        ),
        "file_GiB": round(size / 2**30, 2),
        "setups": found.setups,
        "passes": found.passes,
        "passes_over_the_files": passes,
        "read_GiB": round(passes * size / 2**30, 1),
        "floor_GFlop": round(flops / 1e9, 1),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "instruction_set": build_info().instruction_set,
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
