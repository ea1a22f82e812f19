"""Selections from shards: seconds and bytes exchanged for 1, 2 and 4 processes on this machine.

    python benchmarks/shards.py

Every process takes one thread and its share of a pool of random gradients of a ten-class network,
structured (122 + 10 x 128 columns); the picks must be those of one process. Prints a table and
writes a dated JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from records import write_record

from fishermask_fast import GradientFactors, build_info, select_batch
from fishermask_fast.distributed.exchange import Exchange
from fishermask_fast.distributed.shards import Given, select_from_shards
from fishermask_fast.engine.inputs import Options
from fishermask_fast.likelihoods.categorical import make_rows

R, M, C, D = 9, 122, 10, 128


def make_pool(n: int) -> GradientFactors:
    """Gradients with a softmax's couplings, sizes as unequal as those of trained networks."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, C, generator=generator)
    coupling = make_rows(logits).float()
    hidden = torch.randn(n, D, generator=generator).relu()
    middle = torch.randn(n, R, M, generator=generator) * coupling.norm(dim=(1, 2))[:, None, None]
    return GradientFactors(middle, coupling, hidden)


def run_rank(rank: int, size: int, folder: Path, n: int, n_select: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    assert dist.group.WORLD is not None
    pool = make_pool(n)
    places = torch.arange(rank, n, size)
    fisher = pool.fisher()
    shard = pool[places]
    seconds, found = [], []
    for _ in range(3):
        exchange = Exchange(dist.group.WORLD)
        dist.barrier()
        begun = time.perf_counter()
        selection = select_from_shards(
            exchange,
            Given(shard, places, fisher, None, None),
            lambda: Options.checked(n_select, 1.0, 0, 0, None, None, "mixed"),
            progress=False,
        )
        seconds.append(time.perf_counter() - begun)
        found = selection.indices.tolist()
    told = exchange.everyone(exchange.sent)
    if rank == 0:
        record = {
            "seconds": sorted(seconds)[1],
            "sent": told,
            "passes": selection.passes,
            "setups": selection.setups,
            "indices": found,
        }
        (folder / "found.json").write_text(json.dumps(record))
    dist.destroy_process_group()


def measure(size: int, n: int, n_select: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", f"{rank}", "--size", f"{size}"]
                + ["--folder", folder, "--samples", f"{n}", "--select", f"{n_select}"],
                env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            )
            for rank in range(size)
        ]
        if any([rank.wait() for rank in ranks]):
            raise SystemExit("a rank failed")
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--select", type=int, default=200)
    parser.add_argument("--output", type=Path, help="JSON file; dated in results if none")
    for hidden in ("--rank", "--size"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        run_rank(given.rank, given.size, given.folder, given.samples, given.select)
        return
    torch.set_num_threads(1)
    expected = select_batch(make_pool(given.samples), given.select).indices.tolist()
    rows = {}
    for size in (1, 2, 4):
        found = measure(size, given.samples, given.select)
        same = found.pop("indices") == expected
        first, *others = (sent / given.select / 1e3 for sent in found["sent"])
        print(
            f"{size} processes: {found['seconds']:6.2f} s, {found['passes']} passes, "
            f"{found['setups']} set-ups; kB a pick sent by rank 0: {first:.0f}, by another: "
            f"{max(others, default=0):.0f}; picks {'the same' if same else 'DIFFER'}",
            flush=True,
        )
        rows[size] = found | {"same_picks": same}
    record = {
        "cores": os.cpu_count(),
        "instruction_set": build_info().instruction_set,
        "torch": torch.__version__,
        "samples": given.samples,
        "select": given.select,
        "processes": rows,
    }
    write_record("shards", record, given.output)


if __name__ == "__main__":
    main()
