"""Every listed classifier with nothing set: a batch, right gradients and head, memory as told.

Each model has a process of its own, so that its peak memory is its own and no failure ends the
others. --results keeps what was found, line by line, and goes on where such a run was stopped;
--page puts the table into the docs. Ends with 1 where a model fails.

    python tests/check_models.py [--only NAME ...] [--library NAME] [--most MILLIONS]
        [--results FILE] [--page]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast import FisherMask, FisherMaskSelector, masked_gradients
from fishermask_fast.network import evaluating, take

if __package__ is None:
    sys.path.insert(0, str(Path(__file__).parent))
from model_list import LIBRARIES, Listed, listed
from model_results import Result, add_results, write_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"

N_POOL, N_SELECT, N_COMPARED = 12, 3, 5
# Of float32 gradients against autograd's, relative to the largest (measured: up to 3e-4).
GRADIENTS_APART = 5e-3
PEAK_OVER_ESTIMATE = 1.2


class Samples(Dataset[Any]):
    """The samples of a batch."""

    def __init__(self, batch: Tensor | dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        first = self.batch if isinstance(self.batch, Tensor) else next(iter(self.batch.values()))
        return len(first)

    def __getitem__(self, index: int) -> Tensor | dict[str, Tensor]:
        if isinstance(self.batch, Tensor):
            return self.batch[index]
        return {key: value[index] for key, value in self.batch.items()}


def memory(field: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def apart(model: nn.Module, batch: Tensor | dict[str, Tensor], mask: FisherMask) -> float:
    """Largest relative difference of V_x^T V_x from torch.func's, sample by sample."""
    columns = FisherMask(mask.shapes, mask.indices, mask.method)  # no head is kept apart
    found = masked_gradients(model, Samples(batch), columns, weighting="none").dense().double()
    worst = 0.0
    with evaluating(model) as net:
        wanted = {name: dict(net.named_parameters())[name] for name in mask.indices}
        for i in range(N_COMPARED):
            one = take(batch, torch.tensor([i]))

            def log_p(some: dict[str, Tensor], one: Any = one) -> Tensor:
                args = (one,) if isinstance(one, Tensor) else ()
                kwargs = {} if isinstance(one, Tensor) else one
                made = torch.func.functional_call(net, some, args, kwargs)
                logits = made if isinstance(made, Tensor) else made.logits
                return logits.log_softmax(1)[0]

            _, pull = torch.func.vjp(log_p, wanted)
            eye = torch.eye(found.shape[1])
            rows = []
            for cotangent in eye:
                (grads,) = pull(cotangent)
                parts = [grads[name].flatten()[at] for name, at in mask.indices.items()]
                rows.append(torch.cat(parts).double())
            expected = torch.stack(rows)
            scale = float(expected.abs().max())
            worst = max(worst, float((found[i] - expected).abs().max()) / max(scale, 1e-30))
    return worst


def check(case: Listed) -> dict[str, Any]:
    """What came of one model."""
    torch.set_num_threads(1)
    # What torch allocates at its first query ever is not the model's.
    FisherMaskSelector(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))).query(
        torch.randn(9, 4), 2, torch.randn(3, 4), progress=False
    )
    model, batch = case.model(), case.inputs(N_POOL)
    pool = Samples(batch)
    selector = FisherMaskSelector(model)
    told = selector.estimate(pool, N_SELECT)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    picks = list(selector.query(pool, N_SELECT, progress=False))
    seconds = time.process_time() - start
    peak = memory("VmHWM") - before
    mask = selector.mask_
    return {
        "library": case.library,
        "name": case.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "k": len(mask),
        "picks": picks,
        "head": sorted(name for name in mask.head_names),
        "expected_head": sorted(_names(model, case.head)),
        "apart": apart(model, batch, mask),
        "estimate": told.peak,
        "peak": peak,
        "seconds": seconds,
    }


def _names(model: nn.Module, head: str | tuple[str, ...]) -> list[str]:
    parts = (head,) if isinstance(head, str) else head
    return [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and any(name.startswith(f"{part}.") for part in parts)
    ]


def faults(found: dict[str, Any]) -> list[str]:
    """What is wrong with a model's results."""
    if "error" in found:
        return [found["error"]]
    wrong = []
    if len(set(found["picks"])) != N_SELECT:
        wrong.append(f"picks {found['picks']}")
    if found["head"] != found["expected_head"]:
        wrong.append(f"head {found['head']}, expected {found['expected_head']}")
    if not found["apart"] <= GRADIENTS_APART:
        wrong.append(f"gradients {found['apart']:.1e} apart from torch.func's")
    if found["peak"] > PEAK_OVER_ESTIMATE * found["estimate"]:
        wrong.append(f"peak {found['peak'] >> 20} MiB, estimate {found['estimate'] >> 20} MiB")
    return wrong


def in_process(library: str, name: str) -> dict[str, Any]:
    """`check` in a process of its own."""
    command = [sys.executable, __file__, "--one", library, name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return {"library": library, "name": name, "error": last}


def row(found: Result) -> str:
    """One line of the table."""
    start, verdict = f"| {found['library']} | {found['name']} |", "; ".join(faults(found))
    if "error" in found:
        return f"{start} | | | | | | {verdict} |"
    heads = dict.fromkeys(name.rpartition(".")[0] for name in found["head"])
    return (
        f"{start} {found['parameters']:,} | {found['k']:,} | {', '.join(heads) or 'frozen'} | "
        f"{found['apart']:.0e} | {found['peak'] / 2**20:.0f} / {found['estimate'] / 2**20:.0f} | "
        f"{found['seconds']:.1f} | {verdict or 'right'} |"
    )


TITLE = (
    "| library | model | parameters | k | head | largest difference from torch.func | "
    "peak / estimate, MiB | query, CPU s | |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Go through the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--library", choices=list(LIBRARIES))
    parser.add_argument("--most", type=float, help="millions of parameters; larger ones are left")
    parser.add_argument("--results", type=Path, help="a file that keeps what was found")
    parser.add_argument("--page", action="store_true", help=f"put the table into {PAGE}")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(check(listed(*arguments.one))))
        return 0
    cases = [
        (case.library, case.name)
        for library in ([arguments.library] if arguments.library else LIBRARIES)
        for case in LIBRARIES[library]()
        if not arguments.only or case.name in arguments.only
        if not arguments.most or _size(case) <= arguments.most * 1e6
    ]

    def work(library: str, name: str) -> Result:
        found = in_process(library, name)
        print(row(found), flush=True)
        return found

    print(TITLE)
    results = add_results(arguments.results, cases, work)
    if arguments.page:
        write_table(PAGE, "models", "\n".join([TITLE, *map(row, results.values())]))
    return int(any(faults(found) for found in results.values()))


def _size(case: Listed) -> int:
    try:
        with torch.device("meta"):
            model = case.make()
    except NotImplementedError:  # which some cannot be made on
        model = case.make()
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
