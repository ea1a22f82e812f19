"""The CUDA ops where there is no card: they compile, link and register, and their bodies are sound.

What the threads of a GPU do together is written once, for any number of lanes, and runs here on
threads of the CPU under a race detector.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from op_samples import CPU_ONLY, NAMESPACE, registered_ops
from test_build import setup_module  # noqa: F401  a fixture

from fishermask_fast import build_info

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def ops_without_cuda() -> list[str]:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in registered_ops() if name not in CPU_ONLY]
    return [name for name in names if not has(f"{NAMESPACE}::{name}", "CUDA")]


_LOAD = """
import sys
import torch
sys.path[:0] = sys.argv[2:]
from test_cuda_build import ops_without_cuda
assert ops_without_cuda()
torch.ops.load_library(sys.argv[1])
print(ops_without_cuda())
"""


def test_every_op_has_a_cuda_kernel(
    setup_module: ModuleType,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Of the build at hand; where that has none though nvcc works, of one made here for sm_90."""
    if build_info().cuda_architectures:
        assert ops_without_cuda() == []
        return
    home = setup_module.find_cuda_home()
    obstacle = setup_module.why_no_cuda(torch, home)
    if obstacle is not None:
        pytest.skip(obstacle)
    environment = os.environ | {
        "FISHERMASK_CUDA": "1",
        "CUDA_HOME": str(home),
        "TORCH_CUDA_ARCH_LIST": "9.0",
    }
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    built = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (library,) = tmp_path.glob("fishermask_fast/_C_cuda*.so")
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD, str(library), str(HERE), str(HERE.parent)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == "[]"


def compile_check(compiler: str, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [compiler, "-std=c++20", "-O1", "-g", "-pthread", *flags, "-I", str(ROOT / "csrc")]
    return subprocess.run(
        [*command, str(ROOT / "tests" / "lanes_check.cpp"), "-o", str(target)],
        capture_output=True,
        text=True,
    )


def test_many_lanes_do_what_one_does_without_races(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path / "lanes_check"
    built = compile_check(compiler, program, "-fsanitize=thread")
    if built.returncode != 0:  # a compiler without the race detector's library
        built = compile_check(compiler, program)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
