"""Everything to do with a card at hand, in one run of nine minutes and without a network.

    python benchmarks/card.py [--only build tests table profile sanitizer] [--output FOLDER]

Builds the ops in place with the torch that this Python has, then runs the CUDA tests, the table of
gpu.py, Nsight Compute on the three hottest kernels, and last compute-sanitizer. Each step has a
limit of its own; one that fails or runs out of time is told and leaves the others.
Needs torch >= 2.11 with CUDA, nvcc, pybind11, setuptools, ninja, pytest and NumPy, no more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
HOTTEST = "update_by_group|choose_one|sum_squares"
SECONDS = 530.0
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda")


@dataclass(frozen=True)
class Step:
    """One command; what it says goes to a file of its own."""

    name: str
    command: Sequence[str]
    seconds: float  # at most, of SECONDS for all
    needs: str | None = None  # a program


def steps(device: str, small: bool, seconds: float, folder: Path) -> list[Step]:
    table = [sys.executable, str(HERE / "gpu.py"), "--device", device]
    table += ["--seconds", str(0.45 * seconds), "--output", str(folder / "gpu.json")]
    table += ["--small"] if small else []
    profiled = [sys.executable, str(HERE / "gpu.py"), "--device", device, "--row"]
    profile = ["ncu", "--clock-control", "none", "--kernel-name", f"regex:{HOTTEST}"]
    profile += ["--launch-skip", "40", "--launch-count", "6", "--section", "SpeedOfLight"]
    profile += ["--section", "Occupancy", "--section", "LaunchStats", "--section", "WarpStateStats"]
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return [
        Step("build", build, 200),
        Step("tests", [*PYTEST, "-k", "not compute_sanitizer"], 120),
        Step("table", table, 250),
        Step("profile", [*profile, *profiled, "selection, structured"], 60, "ncu"),
        Step("sanitizer", [*PYTEST, "-k", "compute_sanitizer"], 120, "compute-sanitizer"),
    ]


def run(step: Step, seconds: float, folder: Path) -> str:
    """What became of a step within this time."""
    if step.needs is not None and shutil.which(step.needs) is None:
        return f"not run: {step.needs} was not found"
    if seconds < 5:
        return "not run: no time was left"
    environment = os.environ | {"FISHERMASK_CUDA": os.environ.get("FISHERMASK_CUDA", "1")}
    start = time.perf_counter()
    with (folder / f"{step.name}.log").open("w") as log:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            ended = "ok" if code == 0 else f"FAILED with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and the compilers or tests that it started
            process.wait()
            ended = "STOPPED at its limit"
    return f"{ended} after {time.perf_counter() - start:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="run through, on tiny sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "card")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + arguments.seconds
    failed = False
    for step in steps(arguments.device, arguments.small, arguments.seconds, folder):
        if arguments.only and step.name not in arguments.only:
            continue
        limit = step.seconds * arguments.seconds / SECONDS
        outcome = run(step, min(limit, end - time.perf_counter()), folder)
        failed = failed or "FAILED" in outcome or "STOPPED" in outcome
        log = folder / f"{step.name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        shown = (line[:160] for line in lines[-12:])
        print(f"== {step.name}: {outcome}", *shown, sep="\n", flush=True)
    print(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
