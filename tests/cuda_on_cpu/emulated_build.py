"""Builds csrc/cuda for the CPU: its threads as fibers, its ops as torch.ops.fishermask_emulated.

    python tests/cuda_on_cpu/emulated_build.py [--sanitize] [--sources FOLDER] [--folder FOLDER]

Prints the library's path. Sources are rewritten where C++ has no words for what they say: launches,
shared memory, the device's guard and stream, and the device that the ops are registered for. What
has not changed since the last build is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "fishermask_emulated"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

_LAUNCH = re.compile(r"([\w:]+(?:<[^<>;{}]*>)?)\s*<<<(.*?)>>>", re.DOTALL)
_DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")
_STATIC = re.compile(r"__shared__ ([\w<>, ]+?) (\w+)((?:\[\w+\])*);")


def translated(text: str) -> str:
    """A source of csrc as C++ for the CPU."""
    text = _DYNAMIC.sub(r"\1* \2 = static_cast<\1*>(emulated::dynamic_memory());", text)
    text = _STATIC.sub(r"auto& \2 = emulated::shared_variable<\1\3>([] {});", text)
    text = _LAUNCH.sub(r'emulated::Launch{"\1", [](auto... values) { \1(values...); }, \2}', text)
    for old, new in (
        ("torch::stable::accelerator::DeviceGuard", "emulated::DeviceGuard"),
        ("aoti_torch_get_current_cuda_stream", "emulated::current_stream"),
        ("IMPL(fishermask_fast, CUDA,", f"IMPL({NAMESPACE}, CPU,"),
        ("LIBRARY(fishermask_fast,", f"LIBRARY({NAMESPACE},"),
    ):
        text = text.replace(old, new)
    return text


def setup_script() -> ModuleType:
    """setup.py, whose flags are the build's own; it builds only when run as a script."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_sources(sources: Path, folder: Path) -> list[Path]:
    """The translated sources, and what is compiled of them; unchanged files keep their dates."""
    units = []
    for path in [sources / "ops.cpp", *sorted((sources / "cuda").glob("*.cu*"))]:
        suffix = ".cpp" if path.suffix == ".cu" else path.suffix
        target = folder / path.with_suffix(suffix).name
        text = f'#line 1 "{path}"\n{translated(path.read_text())}'
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
        if suffix == ".cpp":
            units.append(target)
    return units


def build(folder: Path, sources: Path = ROOT / "csrc", sanitize: bool = False) -> Path:
    """Compiles what has changed, and links.

    Raises:
        subprocess.CalledProcessError: the compiler failed; its words are in `stderr`.
    """
    import torch

    script = setup_script()
    folder.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    flags = [flag for flag in script.CXX_FLAGS if flag not in ("-O3", "-g0")]
    flags += ["-O1", "-g", *SANITIZERS] if sanitize else ["-O2"]
    library = Path(torch.__file__).parent
    includes = [HERE, folder, sources, library / "include"]
    includes.append(library / "include" / "torch" / "csrc" / "api" / "include")
    command = [*compiler, *flags, "-fPIC", "-U_FORTIFY_SOURCE", script.target_define()]
    command += [*(f"-I{path}" for path in includes), "-include", "cuda_runtime.h"]
    units = [*write_sources(sources, folder), HERE / "emulator.cpp"]
    headers = [HERE / "cuda_runtime.h", *folder.glob("*.cuh"), *(sources / "common").glob("*.h")]
    shared = "\0".join([shlex.join(command), torch.__version__, *(x.read_text() for x in headers)])

    def compiled(unit: Path) -> Path:
        content = hashlib.sha256((shared + unit.read_text()).encode()).hexdigest()[:16]
        target = folder / f"{unit.stem}-{content}.o"
        if not target.exists():
            for stale in folder.glob(f"{unit.stem}-*.o"):
                stale.unlink()
            part = target.with_suffix(".part")
            run([*command, "-c", str(unit), "-o", str(part)])
            part.rename(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    content = hashlib.sha256("".join(x.name for x in objects).encode()).hexdigest()[:16]
    target = folder / f"cuda_on_cpu-{content}.so"
    if not target.exists():
        for stale in folder.glob("cuda_on_cpu-*.so"):
            stale.unlink()
        rest = SANITIZERS if sanitize else []
        libraries = [f"-L{library / 'lib'}", "-ltorch_cpu", f"-Wl,-rpath,{library / 'lib'}"]
        part = target.with_suffix(".part")
        run([*compiler, "-shared", *rest, *map(str, objects), *libraries, "-o", str(part)])
        part.rename(target)
    return target


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def why_not() -> str | None:
    """What stands in the way of the build; None where nothing does."""
    if not sys.platform.startswith("linux"):
        return f"the emulated build is for Linux; this is {sys.platform}"
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    return None if shutil.which(compiler) else f"the compiler {compiler!r} was not found"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--sources", type=Path, default=ROOT / "csrc")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    name = "cuda-on-cpu-sanitized" if arguments.sanitize else "cuda-on-cpu"
    folder = arguments.folder or ROOT / "build" / name
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    try:
        print(build(folder, arguments.sources.resolve(), arguments.sanitize))
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.stderr) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
