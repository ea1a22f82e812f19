"""The networks that most people bring, with nothing set: a batch, or a refusal in one line.

Images of 64 pixels, five classes unless the name says otherwise. `LIMITED` ones run again under
limits on their address space: they end with the same picks, or refuse within a second. Ends with 1
where one does neither.

    python tests/check_common.py [--only NAME ...] [--limits GIB ...]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast import FisherMaskSelector

if __package__ is None:
    sys.path.insert(0, str(Path(__file__).parent))
from check_models import Samples
from model_list import N_CLASSES, images

N_POOL, N_SELECT = 12, 3
REFUSED_WITHIN = 1.0  # seconds


def _torchvision(name: str, n_classes: int = N_CLASSES) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        options: dict[str, Any] = {"image_size": 64} if name.startswith("vit") else {}
        return models.get_model(name, weights=None, num_classes=n_classes, **options)

    return make


def _mlp() -> nn.Module:
    """837 parameters."""
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))


COMMON: dict[str, Callable[[], nn.Module]] = {
    **{
        name: _torchvision(name)
        for name in (
            "resnet18", "resnet50", "vit_b_16", "convnext_tiny", "swin_t", "mobilenet_v3_small",
            "efficientnet_b0", "densenet121", "squeezenet1_1",
        )
    },
    "resnet50, 1,000 classes": _torchvision("resnet50", 1000),
    "MLP of 837 parameters": _mlp,
}  # fmt: skip
LIMITED = ("resnet18", "resnet50", "vit_b_16")


def ask(name: str) -> dict[str, Any]:
    """What a query gives, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = COMMON[name]()
    drawn = torch.Generator().manual_seed(1)
    pool: Tensor = torch.randn(N_POOL, 20, generator=drawn)
    if name != "MLP of 837 parameters":
        pool = images(64)(N_POOL)
    selector = FisherMaskSelector(model)
    start = time.perf_counter()
    try:
        picks = list(selector.query(Samples(pool), N_SELECT, progress=False))
    except ValueError as error:
        return {"refusal": str(error), "seconds": time.perf_counter() - start}
    k = len(selector.mask_)
    return {"picks": picks, "k": k, "seconds": time.perf_counter() - start}


def asked(name: str, gib: float | None) -> dict[str, Any]:
    """`ask` in a process of its own, whose address space is limited."""
    command = [sys.executable, __file__, "--one", name]
    if gib is not None:
        command += ["--limits", str(gib)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"fault": f"ended with {done.returncode}: {last}"}


def fault(found: dict[str, Any], free: dict[str, Any]) -> str:
    """What is wrong with a result; `free` is that without a limit."""
    if "fault" in found:
        return str(found["fault"])
    if "refusal" in found:
        slow = found["seconds"] > REFUSED_WITHIN
        long = "\n" in found["refusal"]
        return f"refused after {found['seconds']:.1f} s" if slow else "many lines" if long else ""
    if len(set(found["picks"])) != N_SELECT:
        return f"picks {found['picks']}"
    if "picks" in free and found["picks"] != free["picks"]:
        return f"picks {found['picks']}, without a limit {free['picks']}"
    return ""


def main() -> int:
    """Go through the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=list(COMMON))
    parser.add_argument("--limits", nargs="+", type=float, default=[6.0, 20.0], metavar="GIB")
    arguments = parser.parse_args()
    if arguments.one:
        if "--limits" in sys.argv:
            most = int(arguments.limits[0] * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        print(json.dumps(ask(arguments.one)))
        return 0
    wrong = 0
    for name in arguments.only or COMMON:
        free = asked(name, None)
        runs = {"no limit": free}
        if name in LIMITED:
            runs |= {f"{gib:g} GiB": asked(name, gib) for gib in arguments.limits}
        for limit, found in runs.items():
            verdict = fault(found, free)
            wrong += bool(verdict)
            print(f"{name}, {limit}: {verdict or 'right'} {found}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
