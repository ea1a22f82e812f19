"""What the compiler makes of every CUDA kernel: registers, spills, shared memory.

    python benchmarks/kernel_report.py [--architecture 90]

Compiles csrc/cuda/*.cu as setup.py does, with ptxas -v, and writes a dated file to
benchmarks/results. Ends with exit code 1 where a kernel spills registers to memory.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from records import write_record
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import setup as build  # noqa: E402  the build's own flags


def compile_verbosely(nvcc: Path, source: Path, architecture: str) -> str:
    """What ptxas says of one file."""
    cuda = torch.version.cuda or ""
    wheels = Path(torch.__file__).parents[1] / "nvidia" / f"cu{cuda.split('.')[0]}"
    folders = [ROOT / "csrc", *cpp_extension.include_paths(), wheels / "include"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(nvcc),
            *build.NVCC_FLAGS,
            "-DUSE_CUDA",
            build.target_define(),
            *(f"-I{path}" for path in folders),
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            "-Xptxas=-v",
            "-c",
            str(source),
            "-o",
            f"{folder}/object.o",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stderr


def demangled(name: str) -> str:
    try:
        return subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return name


def kernels(report: str) -> list[dict[str, Any]]:
    """One row a kernel of a ptxas report."""
    rows = []
    for part in re.split(r"Compiling entry function ", report)[1:]:
        name = re.match(r"'([^']+)'", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        stack = re.search(r"(\d+) bytes stack frame", part)
        assert name and spills and registers and stack, part
        shared = re.search(r"(\d+) bytes smem", part)
        short = demangled(name.group(1)).replace("fishermask::", "")
        short = short.replace("(anonymous namespace)::", "").removeprefix("void ")
        rows.append(
            {
                "kernel": short.split("(")[0],
                "registers": int(registers.group(1)),
                "spill_bytes": int(spills.group(1)) + int(spills.group(2)),
                "stack_bytes": int(stack.group(1)),
                "static_shared_bytes": int(shared.group(1)) if shared else 0,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="90")
    parser.add_argument(
        "--output", type=Path, help="JSON file; dated in benchmarks/results if none"
    )
    arguments = parser.parse_args()
    home = build.find_cuda_home()
    obstacle = build.why_no_cuda(torch, home)
    if obstacle is not None or home is None:
        raise SystemExit(f"the CUDA ops cannot be compiled here: {obstacle}")
    nvcc = home / "bin" / "nvcc"
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    rows: list[dict[str, Any]] = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        found = kernels(compile_verbosely(nvcc, source, arguments.architecture))
        rows += [{"file": source.name, **row} for row in found]
    record = {
        "architecture": f"sm_{arguments.architecture}",
        "nvcc": re.findall(r"release .*", version)[0],
        "torch": torch.__version__,
        "kernels": rows,
    }
    for row in rows:
        print(
            f"{row['file']:20} {row['kernel']:36} {row['registers']:4} registers "
            f"{row['spill_bytes']:4} B spilled {row['static_shared_bytes']:6} B shared"
        )
    write_record(f"kernels-sm_{arguments.architecture}", record, arguments.output)
    return 1 if any(row["spill_bytes"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
