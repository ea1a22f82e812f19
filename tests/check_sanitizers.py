"""Builds _C under the address and undefined-behaviour sanitizers and runs the tests of the ops.

    python tests/check_sanitizers.py [--calls 20000]

A copy of the sources is built under build/check-sanitizers, with the widest kernels emulated where
the machine lacks their instructions, so that all three widths run. After the tests of the ops come
random views by the thousand (tests/strided.py) and the CUDA kernels' build for the CPU. The first
report ends the run, with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "check-sanitizers"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"


def copy_sources() -> None:
    """The sources and tests, without builds; dates stay, so that only changes are compiled."""
    for name in ("csrc", "fishermask_fast", "tests"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, FOLDER / name)


def emulation() -> str:
    flags = Path("/proc/cpuinfo")
    has_avx512 = flags.exists() and "avx512dq" in flags.read_text()
    return "" if has_avx512 else "-DFISHERMASK_EMULATE_AVX512"


def run(command: list[str | Path], **variables: str) -> None:
    print(shlex.join(map(str, command)), flush=True)
    done = subprocess.run(command, cwd=FOLDER, env={**os.environ, **variables})
    if done.returncode:
        sys.exit(f"failed: {shlex.join(map(str, command))}")


def libraries() -> str:
    """The sanitizers' runtimes, which must be loaded before Python's own libraries."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    found = []
    for name in ("libasan.so", "libubsan.so"):
        asked = [*compiler, f"-print-file-name={name}"]
        path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            sys.exit(f"{shlex.join(compiler)} has no {name}; install GCC's sanitizers")
        found.append(path)
    return ":".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of ops with random views")
    calls = parser.parse_args().calls
    FOLDER.mkdir(parents=True, exist_ok=True)
    copy_sources()
    build: list[str | Path] = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    flags = f"{SANITIZE} {emulation()}"
    # After the build's own flags: the kernels stay quick enough, and reports name lines.
    run(build, FISHERMASK_CUDA="0", CFLAGS=f"{flags} -g1", LDFLAGS=SANITIZE)
    sanitized = {
        "LD_PRELOAD": libraries(),
        # Python keeps what it needs until its end.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": str(FOLDER),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }
    pytest: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
    ]
    run([*pytest, "tests/ops"], **sanitized)
    run([sys.executable, "tests/strided.py", "--calls", str(calls)], **sanitized)
    emulated = FOLDER / "tests" / "cuda_on_cpu"
    script = [sys.executable, str(emulated / "emulated_build.py"), "--sanitize"]
    print(shlex.join(script), flush=True)
    built = subprocess.run(script, cwd=FOLDER, capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"failed: {shlex.join(script)}\n{built.stderr}")
    run([*pytest, emulated], **sanitized, FISHERMASK_EMULATED=built.stdout.strip())
    print("no report")


if __name__ == "__main__":
    main()
