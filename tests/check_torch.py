"""Installs the wheels of dist/ under several torches, not built again, and runs the ops there.

    python tests/check_torch.py [--use 2.11.0 2.13.0 2.14.1 2.13.0+cpu] [--build 2.14.1]

Each torch gets a virtual environment under build/check-torch; what ends in +cpu is torch's build
without CUDA, and is left out, with a word, where no index has it. In every environment each wheel
is installed as it is: the compiled one and the pure one that ``make wheel`` made, and one compiled
against each torch of --build. There each registered op runs on small tensors and is compared with
the pure torch definition; every operation of autograd that has a rule is asked for the fields that
the rule reads; and with the compiled wheel of dist/ the tests of the ops run, from a folder without
the package's sources. Ends with a table, and with exit code 1 where a cell of it is not ``ok``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import wheels

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "check-torch"
PROBE = ROOT / "tests" / "probe_torch.py"
TORCHES = ("2.11.0", "2.13.0", "2.14.1", "2.11.0+cpu", "2.13.0+cpu", "2.14.1+cpu")

Row = tuple[str, str, str, str]


def environment(torch_version: str) -> Path | None:
    """The Python of an environment with this torch; None where no index has it without CUDA."""
    try:
        return wheels.torch_environment(torch_version)
    except subprocess.CalledProcessError:
        if "+" not in torch_version:
            raise
        print(f"torch {torch_version} could not be installed: left out", flush=True)
        return None


def to_use(built: list[str]) -> Iterator[tuple[str, Path]]:
    """Wheels by what they are called in the table, those of dist/ first."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    compiled = sorted(wheels.DIST.glob(f"*-{tag}-{tag}-*.whl"))
    pure = sorted(wheels.DIST.glob("*-py3-none-any.whl"))
    if len(compiled) != 1 or len(pure) != 1:
        raise FileNotFoundError(f"dist/ must hold one wheel for {tag} and a pure one: make wheel")
    yield "dist/, compiled", compiled[0]
    yield "dist/, pure", pure[0]
    (source,) = (wheels.FOLDER / "source").iterdir()
    for version in built:
        yield version, wheels.build_compiled(version, source, FOLDER / f"wheel-{version}")


def use_wheel(wheel: Path, python: Path) -> dict[str, str]:
    """What probe_torch.py found out: one verdict per op, and under 'import' one for the loading."""
    wheels.pip(python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    # -I and another folder than the root keep the source tree from being imported instead.
    result = subprocess.run(
        [python, "-I", PROBE],
        cwd=FOLDER,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        return {"import": result.stderr.strip().splitlines()[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def run_op_tests(python: Path) -> str:
    """The verdict of tests/ops against what is installed."""
    folder = FOLDER / "tests-alone"
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "cuda_on_cpu")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    result = subprocess.run(
        [python, "-m", "pytest", "tests/ops", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    last = (result.stdout.strip() or result.stderr.strip()).splitlines()[-1]
    counts = re.sub(r"^=+ | in .*$", "", last)
    return f"ok ({counts})" if result.returncode == 0 else f"failed: {counts}\n{result.stdout}"


def table(rows: list[Row]) -> str:
    header = ("wheel", "torch", "what", "verdict")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", nargs="*", default=["2.14.1"])
    parser.add_argument("--use", nargs="+", default=TORCHES)
    arguments = parser.parse_args()
    rows: list[Row] = []
    pythons = {used: python for used in arguments.use if (python := environment(used)) is not None}
    for name, wheel in to_use(arguments.build):
        for used, python in pythons.items():
            verdicts = use_wheel(wheel, python)
            if name == "dist/, compiled" and verdicts["import"].startswith("ok"):
                verdicts["tests/ops"] = run_op_tests(python)
            rows += [(name, used, what, verdict) for what, verdict in verdicts.items()]
    failed = [row for row in rows if not row[3].startswith("ok")]
    print(table(rows))
    print(f"{len(rows)} verdicts, {len(failed)} of them not ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
