"""Cost of masked gradients and of the Fisher diagonal, in forward passes, for forty networks.

    python benchmarks/check_models.py [--models swin_t ...] [--before before.json] [--out now.json]

One thread, CPU time. A network's own graph costs (1 + r) passes: one forward and r backward, timed
from the logits down to the first parameter. With --before, a file that the same script wrote for
another version of the package (found by PYTHONPATH), the table has both. Exit code 1 where masked
gradients cost more than twice the network's own passes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from model_list import N_CLASSES, Entry, entries

from fishermask_fast import FisherMask, fisher_diagonal, masked_gradients

ROWS = N_CLASSES - 1
SAMPLES = {"torchvision": 16, "timm": 16, "transformers": 64}


def seconds(work: Callable[[], object], repeats: int = 2) -> float:
    """The least CPU time of a few repeats."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


class Samples(torch.utils.data.Dataset):
    """A batch, sample by sample."""

    def __init__(self, batch: object) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())) if isinstance(self.batch, dict) else self.batch)

    def __getitem__(self, i: int) -> object:
        if isinstance(self.batch, dict):
            return {name: values[i] for name, values in self.batch.items()}
        return self.batch[i]


def measure(entry: Entry) -> dict[str, float]:
    """Seconds of a forward pass, of the network's own passes, and of both quantities."""
    torch.manual_seed(0)
    model = entry.build().eval()
    n = SAMPLES[entry.library]
    batch = entry.inputs(n)
    data = Samples(batch)

    def logits() -> torch.Tensor:
        output = model(**batch) if isinstance(batch, dict) else model(batch)
        return output.logits if hasattr(output, "logits") else output

    def forward() -> None:
        with torch.no_grad():
            logits()

    parameters = list(model.parameters())

    def own() -> None:
        for p in parameters[1:]:
            p.requires_grad_(False)
        z = logits()
        for j in range(ROWS):
            torch.autograd.grad(
                z, parameters[0], torch.ones_like(z), retain_graph=j + 1 < ROWS, allow_unused=True
            )
        for p in parameters:
            p.requires_grad_(True)

    found = {"forward": seconds(forward), "own": seconds(own)}
    diagonal: list[dict[str, torch.Tensor]] = []
    found["diagonal"] = seconds(
        lambda: diagonal.append(fisher_diagonal(model, data, batch_size=n)), 1
    )
    mask = FisherMask.from_scores(diagonal[0], 0.002, keep_head=False)
    found["masked"] = seconds(lambda: masked_gradients(model, data, mask, batch_size=n), 1)
    return found


def table(now: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| network | 1 + {ROWS} passes | masked gradients | before | Fisher diagonal | before |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in now.items():
        unit = found["forward"]
        old = before.get(name)
        cells = [found["own"], found["masked"], old and old["masked"] * unit / old["forward"]]
        cells += [found["diagonal"], old and old["diagonal"] * unit / old["forward"]]
        shown = ["" if cell is None else f"{cell / unit:.1f}" for cell in cells]
        lines.append("| " + " | ".join([name, *shown]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    now: dict[str, dict[str, float]] = {}
    for entry in entries(arguments.models):
        now[entry.name] = measure(entry)
        print(entry.name, {k: round(v, 3) for k, v in now[entry.name].items()}, file=sys.stderr)
        if arguments.out:
            arguments.out.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(arguments.before.read_text()) if arguments.before else {}
    print(table(now, before))
    return int(any(found["masked"] > 2 * found["own"] for found in now.values()))


if __name__ == "__main__":
    sys.exit(main())
