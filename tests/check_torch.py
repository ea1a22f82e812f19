"""Builds a wheel against one torch and uses it, not built again, under others.

    python tests/check_torch.py [--build 2.14.1 2.11.0] [--use 2.11.0 2.13.0 2.14.1]

Each torch gets a virtual environment under build/check-torch. In every one the wheel is installed
as it is, each registered op runs on small tensors, and what it returns is compared with the pure
torch definition; and every operation of autograd that has a rule is asked for the fields that the
rule reads. Ends with a table, and with exit code 1 where a cell of it is not ``ok``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "check-torch"
BUILD_TOOLS = ["setuptools>=77", "ninja", "pybind11>=2.13"]


def environment(torch_version: str) -> Path:
    """The Python of a virtual environment with this torch and what a build needs."""
    folder = FOLDER / f"torch-{torch_version}"
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    if not stamp.exists():
        print(f"installing torch {torch_version}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip(python, "install", f"torch=={torch_version}", "numpy", *BUILD_TOOLS)
        stamp.touch()
    return python


def pip(python: Path, *arguments: str | Path) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments, "-qq"]
    subprocess.run(command, check=True)


def build_wheel(torch_version: str) -> Path:
    python = environment(torch_version)
    folder = FOLDER / f"wheel-{torch_version}"
    for old in folder.glob("*.whl"):
        old.unlink()
    print(f"building against torch {torch_version}", flush=True)
    pip(python, "wheel", "--no-deps", "--no-build-isolation", ROOT, "--wheel-dir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def use_wheel(wheel: Path, torch_version: str) -> dict[str, str]:
    """What ``probe`` found out: one verdict per op, and under 'import' one for the loading."""
    python = environment(torch_version)
    pip(python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    # -I and another folder than the root keep the source tree from being imported instead.
    result = subprocess.run(
        [python, "-I", __file__, "--probe"],
        cwd=FOLDER,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        return {"import": result.stderr.strip().splitlines()[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def probe() -> None:
    """Runs every op in this process and prints the verdicts as one line of JSON."""
    sys.path.insert(0, str(Path(__file__).parent))
    import op_samples
    import torch

    import fishermask_fast.ops

    if Path(fishermask_fast.__file__).is_relative_to(ROOT / "fishermask_fast"):
        raise ImportError(f"the source tree was imported: {fishermask_fast.__file__}")
    verdicts = {"import": f"ok ({torch.__version__})"}
    for name in sorted({*op_samples.registered_ops(), *op_samples.SAMPLES}):
        try:
            op_samples.check_op(name)
            verdicts[name] = "ok"
        except Exception as error:  # a broken op is a cell of the table
            verdicts[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    verdicts |= saved_fields()
    print(json.dumps(verdicts))


def saved_fields() -> dict[str, str]:
    """One verdict for each kind of operation: whether it saves what its rule reads."""
    import op_nodes

    from fishermask_fast.gradients.reading import SAVED, missing_fields

    verdicts = {}
    for kind in SAVED:
        node = op_nodes.node_of(kind)
        if node is None:
            elsewhere = kind in op_nodes.ELSEWHERE
            verdicts[kind] = "ok (needs a GPU)" if elsewhere else "is another operation here"
            continue
        missing = missing_fields(node)
        verdicts[kind] = f"saves no {', '.join(missing)}" if missing else "ok"
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", nargs="+", default=["2.14.1", "2.11.0"])
    parser.add_argument("--use", nargs="+", default=["2.11.0", "2.13.0", "2.14.1"])
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe()
        return 0
    rows = []
    for built in arguments.build:
        wheel = build_wheel(built)
        for used in arguments.use:
            verdicts = use_wheel(wheel, used)
            rows += [(built, used, what, verdict) for what, verdict in verdicts.items()]
    header = ("built against", "used under", "what", "verdict")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    return 0 if all(row[3].startswith("ok") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
