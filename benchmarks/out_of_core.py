"""A selection from a pool on disk, against the time that reading the pool takes.

    python benchmarks/out_of_core.py --folder DIRECTORY

Makes a pool of random gradients, of sizes as unequal as those of trained networks, in a safetensors
file (20 GB unless told; a file of the right size is used again), reads it from end to end a few
times, and picks from it. Prints seconds and the most memory held, and writes a dated JSON file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peak import peak_gib
from records import write_record

from fishermask_fast import GradientFactors, StoredFactors, build_info, select_batch
from fishermask_fast.factors import Written, plan_file, write_rows, write_start

_CHUNK = 8192


def make_pool(path: Path, n: int, r: int, k: int) -> None:
    """Writes a dense float32 pool (n, r, k), a chunk at a time."""
    header, layout = plan_file(GradientFactors(torch.empty(0, r, k)), n, {})
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(k, generator=generator).exp()
    with path.open("w+b") as file:
        write_start(file.fileno(), header, layout, None)
        written = Written(file.fileno(), layout)
        for start in range(0, n, _CHUNK):
            size = min(_CHUNK, n - start)
            sizes = 0.1 * torch.randn(size, 1, 1, generator=generator).exp()
            rows = torch.randn(size, r, k, generator=generator)
            write_rows(file.fileno(), layout, start, GradientFactors(rows * sizes * columns))
            written.add(start, start + size)
        written.seal()
        os.fsync(file.fileno())


def read(pool: StoredFactors) -> float:
    """Seconds of one sequential read."""
    begun = time.perf_counter()
    for _ in pool.chunks():
        pass
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the pool lies")
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--select", type=int, default=64)
    parser.add_argument("--reads", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file; dated in results if none")
    arguments = parser.parse_args()
    r, k = arguments.rows, arguments.columns
    n = int(arguments.gigabytes * 1e9) // (4 * r * k)
    path = arguments.folder / f"pool-{n}-{r}-{k}.safetensors"
    if not path.exists():
        draft = path.with_suffix(".part")
        begun = time.perf_counter()
        make_pool(draft, n, r, k)
        draft.replace(path)
        print(f"made {path} in {time.perf_counter() - begun:.0f} s", flush=True)
    pool = StoredFactors(path)
    print(f"{pool}: {path.stat().st_size / 1e9:.2f} GB", flush=True)
    reads = [read(pool) for _ in range(arguments.reads)]
    one = statistics.median(reads)
    print(f"one read: {one:.1f} s, {path.stat().st_size / one / 1e9:.2f} GB/s", flush=True)
    begun = time.perf_counter()
    fisher = pool.fisher()
    seconds: dict[str, Any] = {"reads": reads, "fisher": time.perf_counter() - begun}
    print(f"Fisher matrix: {seconds['fisher']:.1f} s", flush=True)
    begun = time.perf_counter()
    found = select_batch(pool, arguments.select, fisher)
    seconds["selection"] = time.perf_counter() - begun
    ratio = seconds["selection"] / (16 * one)
    print(
        f"{len(found)} picks: {seconds['selection']:.1f} s, {ratio:.2f} times 16 reads; "
        f"{found.setups} set-ups, {found.passes} passes; {peak_gib():.2f} GiB resident at most"
    )
    record = {
        "threads": torch.get_num_threads(),
        "instruction_set": build_info().instruction_set,
        "torch": torch.__version__,
        "shape": [n, r, k],
        "bytes": path.stat().st_size,
        "picks": len(found),
        "seconds": seconds,
        "times_16_reads": ratio,
        "setups": found.setups,
        "passes": found.passes,
        "peak_gib": peak_gib(),
    }
    write_record("out_of_core", record, arguments.output)


if __name__ == "__main__":
    main()
