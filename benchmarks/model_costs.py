"""Cost of masked gradients and of the Fisher diagonal, in forward passes, for forty networks.

    python benchmarks/model_costs.py [--only swin_t ...] [--results FILE] [--before FILE] [--page]

One thread, CPU time, the least of a few repeats; every repeat is a whole call, the plan that begins
it included. A network's own graph costs (1 + r) passes: one forward, and r backward from the logits
down to the first parameter. --results keeps what was measured, line by line, and goes on where such
a run was stopped; --before is such a file that this script wrote with another version of the
package, found by PYTHONPATH. Exit code 1 where a network costs more than twice its own passes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from model_list import N_CLASSES, Listed, timed_models  # noqa: E402
from model_results import Result, add_results, read_results, write_table  # noqa: E402

from fishermask_fast import FisherMask, fisher_diagonal, masked_gradients  # noqa: E402

ROWS = N_CLASSES - 1
IMAGES, TEXTS, LARGE_IMAGES = 16, 64, 2  # samples; the last of more than 100 pixels a side
PAGE = ROOT / "docs" / "models.md"


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


class Samples(torch.utils.data.Dataset):
    """A batch, sample by sample."""

    def __init__(self, batch: Tensor | dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())) if isinstance(self.batch, dict) else self.batch)

    def __getitem__(self, i: int) -> object:
        if isinstance(self.batch, dict):
            return {name: values[i] for name, values in self.batch.items()}
        return self.batch[i]


def logits_of(model: nn.Module, batch: Tensor | dict[str, Tensor]) -> Tensor:
    output = model(**batch) if isinstance(batch, dict) else model(batch)
    found: Tensor = output.logits if hasattr(output, "logits") else output
    return found


def own_passes(model: nn.Module, batch: Tensor | dict[str, Tensor]) -> None:
    """One forward pass, and r backward passes down to the first parameter."""
    parameters = list(model.parameters())
    for p in parameters[1:]:
        p.requires_grad_(False)
    logits = logits_of(model, batch)
    for j in range(ROWS):
        torch.autograd.grad(
            logits,
            parameters[0],
            torch.ones_like(logits),
            retain_graph=j + 1 < ROWS,
            allow_unused=True,
        )
    for p in parameters:
        p.requires_grad_(True)


def n_samples(case: Listed) -> int:
    one = case.inputs(1)
    if isinstance(one, dict):
        return TEXTS if "input_ids" in one else IMAGES
    return IMAGES if one.shape[-1] <= 100 else LARGE_IMAGES


def measure(case: Listed, repeats: int) -> Result:
    """CPU seconds of a forward pass, of the network's own passes, and of both quantities."""
    model = case.model().eval()
    n = n_samples(case)
    batch = case.inputs(n)
    data = Samples(batch)

    def forward() -> None:
        with torch.no_grad():
            logits_of(model, batch)

    diagonal = fisher_diagonal(model, data, batch_size=n)
    mask = FisherMask.from_scores(diagonal, 0.002, keep_head=False)
    kinds: dict[str, Callable[[], object]] = {
        "forward": forward,
        "own": lambda: own_passes(model, batch),
        "masked": lambda: masked_gradients(model, data, mask, batch_size=n),
        "diagonal": lambda: fisher_diagonal(model, data, batch_size=n),
    }
    # In turns, so that what else the machine does falls on all alike.
    taken = [{kind: seconds(work) for kind, work in kinds.items()} for _ in range(repeats)]
    least = {kind: min(each[kind] for each in taken) for kind in kinds}
    return {"library": case.library, "name": case.name, **least}


def in_passes(found: Result | None, kind: str, forward: float) -> str:
    """Forward passes that something cost; of another version's run in its own passes."""
    if found is None or "error" in found:
        return "" if found is None else "fails"
    return f"{found[kind] / (forward or found['forward']):.1f}"


def table(now: dict[str, Result], before: dict[str, Result]) -> str:
    lines = [
        f"| network | 1 + {ROWS} passes | masked gradients | before | Fisher diagonal | before |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in now.items():
        unit = found.get("forward", 0.0)
        cells = [in_passes(found, "own", unit)]
        for kind in ("masked", "diagonal"):
            cells += [in_passes(found, kind, unit), in_passes(before.get(name), kind, 0.0)]
        lines.append("| " + " | ".join([name.replace("/", ": "), *cells]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--page", action="store_true", help=f"put the table into {PAGE}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        (case.library, case.name): case
        for case in timed_models()
        if not arguments.only or case.name in arguments.only
    }

    def work(library: str, name: str) -> Result:
        try:
            found = measure(cases[library, name], arguments.repeats)
        except Exception as error:
            found = {"library": library, "name": name, "error": f"{type(error).__name__}: {error}"}
        print(found, file=sys.stderr, flush=True)
        return found

    now = add_results(arguments.results, cases, work)
    text = table(now, read_results(arguments.before))
    print(text)
    if arguments.page:
        write_table(PAGE, "costs", text)
    most = 2.0
    return int(
        any("error" in found or found["masked"] > most * found["own"] for found in now.values())
    )


if __name__ == "__main__":
    sys.exit(main())
