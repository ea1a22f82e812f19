"""Builds the compiled ops: ``_C`` always, ``_C_cuda`` where torch has CUDA and nvcc is found.

Read from the environment: FISHERMASK_BUILD=1|0 (0: pure Python, without compiled ops),
FISHERMASK_CUDA=auto|0|1 (FORCE_CUDA=1 means 1), CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS and CXX.
Both modules use the stable ABI only, so that what is built against one torch >= 2.11 serves all.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.errors import CCompilerError

MINIMUM_SETUPTOOLS = 77
MINIMUM_TORCH = (2, 11)
MINIMUM_NVCC = (12, 0)
# Built where no GPU is seen, as far as nvcc offers them; the last as PTX too, for what came after.
DEFAULT_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

ROOT = Path(__file__).resolve().parent
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wno-psabi",
]
LINK_FLAGS = ["-Wl,--strip-debug"] if sys.platform == "linux" else []
NVCC_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fvisibility=hidden"]
CXX20_PROBE = """
#include <concepts>
#include <span>
template <std::floating_point T> T first(std::span<const T> values) { return values[0]; }
template float first<float>(std::span<const float>);
"""


WAY_OUT = (
    "To install without compiled ops (the same picks, many times more slowly): "
    "FISHERMASK_BUILD=0 pip install ."
)


class BuildError(SystemExit):
    """Ends the build with a message for the person who started it, the way out at its end."""

    def __init__(self, message: str) -> None:
        separator = "\n" if "\n" in message else " "
        super().__init__(f"fishermask-fast: {message.rstrip()}{separator}{WAY_OUT}")


def check_setuptools() -> None:
    """Stops where pyproject.toml cannot be read, which pip does not ask without isolation."""
    version = setuptools.__version__
    if int(version.split(".")[0]) < MINIMUM_SETUPTOOLS:
        raise SystemExit(
            f"fishermask-fast: building needs setuptools >= {MINIMUM_SETUPTOOLS}; got {version}. "
            f"Upgrade it (pip install 'setuptools>={MINIMUM_SETUPTOOLS}'), or build without "
            "--no-build-isolation."
        )


def builds_ops() -> bool:
    """Whether this run compiles: not where pure Python is asked for, nor for an sdist."""
    choice = os.environ.get("FISHERMASK_BUILD", "1")
    if choice not in ("0", "1"):
        raise BuildError(f"FISHERMASK_BUILD must be 1 or 0; got {choice!r}.")
    return choice == "1" and "sdist" not in sys.argv


def import_torch():
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            f"building needs torch >= {version_name(MINIMUM_TORCH)} where it builds; importing it "
            f"failed: {error}. Install it, or build without --no-build-isolation."
        ) from error
    if version_tuple(torch.__version__) < MINIMUM_TORCH:
        raise BuildError(
            f"building needs torch >= {version_name(MINIMUM_TORCH)}; got {torch.__version__}."
        )
    return torch


def version_tuple(text: str) -> tuple[int, int]:
    major, minor = re.match(r"(\d+)\.(\d+)", text).groups()
    return int(major), int(minor)


def version_name(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def check_compiler() -> None:
    """Stops where no C++20 compiler or no Python header is found."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        raise BuildError(
            f"building needs a C++20 compiler (GCC >= 10 or Clang >= 12); {compiler[0]!r} was not "
            "found. Install one, or name it in the environment variable CXX."
        )
    probe = subprocess.run(
        [*compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
        input=CXX20_PROBE,
        capture_output=True,
        text=True,
    )
    if probe.returncode != 0:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
        name = (version.stdout.splitlines() or [compiler[0]])[0]
        raise BuildError(
            "building needs a C++20 compiler (GCC >= 10 or Clang >= 12); "
            f"{shlex.join(compiler)!r} ({name}) does not compile C++20:\n{probe.stderr}"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        raise BuildError(f"building needs Python's headers (python3-dev); {header} was not found.")


def cuda_choice() -> str:
    """'auto', '0' or '1'."""
    choice = os.environ.get("FISHERMASK_CUDA", "").lower()
    if not choice:
        return "1" if os.environ.get("FORCE_CUDA") == "1" else "auto"
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"FISHERMASK_CUDA must be auto, 0 or 1; got {choice!r}.")
    return choice


def find_cuda_home() -> Path | None:
    """The folder with bin/nvcc, include and lib64; the nvcc on PATH may be a wrapper elsewhere."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named) if (Path(named) / "bin" / "nvcc").exists() else None
    candidates = [Path("/usr/local/cuda")]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        dry_run = subprocess.run(
            [nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True
        )
        here = re.search(r"_HERE_=(.+)", dry_run.stdout + dry_run.stderr)
        folder = Path(here.group(1).strip()) if here else Path(nvcc).resolve().parent
        candidates.insert(0, folder.parent)
    for home in candidates:
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


def why_no_cuda(torch, home: Path | None) -> str | None:
    """What stands in the way of building for CUDA; None where nothing does."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if home is None:
        named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        where = f"in CUDA_HOME={named}" if named else "on PATH or in /usr/local/cuda"
        return f"no nvcc was found {where}; CUDA_HOME must hold bin/nvcc, include and lib64"
    nvcc = home / "bin" / "nvcc"
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", output)
    if release is None:
        return f"{nvcc} --version does not say its release: {output!r}"
    version = version_tuple(release.group(1))
    if version < MINIMUM_NVCC:
        return f"nvcc must be >= {version_name(MINIMUM_NVCC)}; {nvcc} is {version_name(version)}"
    if version[0] != version_tuple(torch.version.cuda)[0]:
        return (
            f"nvcc must be of the same major version as torch's CUDA, {torch.version.cuda}; "
            f"{nvcc} is {version_name(version)}"
        )
    return why_nvcc_fails(nvcc)


def why_nvcc_fails(nvcc: Path) -> str | None:
    """Compiles an empty kernel: whether nvcc takes this host compiler shows only so."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cu"
        source.write_text("__global__ void probe() {}\n")
        host = ["-ccbin", os.environ["CC"]] if "CC" in os.environ else []
        command = [str(nvcc), *host, "-std=c++20", "-c", str(source), "-o", f"{source}.o"]
        probe = subprocess.run(command, capture_output=True, text=True)
    return None if probe.returncode == 0 else f"{shlex.join(command)} failed:\n{probe.stderr}"


def default_architectures(nvcc: Path) -> str:
    """The architectures for a machine without a GPU, as TORCH_CUDA_ARCH_LIST has them."""
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    offered = set(re.findall(r"compute_(\d+)", listing))
    found = [name for name in DEFAULT_ARCHITECTURES if name.replace(".", "") in offered]
    return ";".join(found or ["9.0"]) + "+PTX"


def sources(*patterns: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)
    )


def target_define() -> str:
    """What keeps the sources to the stable ABI of the oldest torch."""
    return f"-DTORCH_TARGET_VERSION=0x{MINIMUM_TORCH[0]:02x}{MINIMUM_TORCH[1]:02x}000000000000"


def extension(factory, name: str, sources: list[str], flags: dict, **options) -> Extension:
    """An extension on the stable ABI, linked with none of the libraries that change with torch."""
    import pybind11

    built = factory(
        name,
        sources,
        include_dirs=[pybind11.get_include(), str(ROOT / "csrc")],
        extra_compile_args={
            language: [*given, target_define()] for language, given in flags.items()
        },
        extra_link_args=LINK_FLAGS,
        depends=headers(),
        **options,
    )
    unstable = {"c10", "c10_cuda", "torch_python"}
    built.libraries = [library for library in built.libraries if library not in unstable]
    return built


def headers() -> list[str]:
    return sources("csrc/**/*.h", "csrc/**/*.inl", "csrc/**/*.cuh")


def cuda_extension(torch, cuda_sources: list[str], warn) -> Extension | None:
    choice = cuda_choice()
    if choice == "0" or not any(source.endswith(".cu") for source in cuda_sources):
        return None
    home = find_cuda_home()
    obstacle = why_no_cuda(torch, home)
    if obstacle is not None:
        if choice == "1":
            raise BuildError(f"FISHERMASK_CUDA=1 asks for the CUDA ops, but {obstacle}.")
        if torch.version.cuda is not None:
            warn(f"building without the CUDA ops: {obstacle}")
        return None
    os.environ["CUDA_HOME"] = str(home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(home / "bin" / "nvcc")
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(home)
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "of this machine")
    define = ("FISHERMASK_CUDA_ARCHITECTURES", f'"{architectures}"')
    built = extension(
        cpp_extension.CUDAExtension,
        "fishermask_fast._C_cuda",
        cuda_sources,
        {"cxx": [*CXX_FLAGS, "-DUSE_CUDA"], "nvcc": [*NVCC_FLAGS, "-DUSE_CUDA"]},
        define_macros=[define],
    )
    # A toolkit without the libraries' headers (cuBLAS, cuSPARSE) is completed by the pip wheels'.
    wheels = Path(torch.__file__).parents[1] / "nvidia" / f"cu{torch.version.cuda.split('.')[0]}"
    built.include_dirs.append(str(wheels / "include"))
    return built


def build_command(torch):
    from torch.utils.cpp_extension import BuildExtension

    class BuildOps(BuildExtension):
        """Keeps the objects of an editable install: a second build compiles only what changed."""

        def finalize_options(self) -> None:
            found = cuda_extension(torch, sources("csrc/cuda/*.cu", "csrc/cuda/*.cpp"), self.warn)
            if found is not None:
                self.distribution.ext_modules.append(found)
            super().finalize_options()
            tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
            self.build_temp = str(ROOT / "build" / f"ops-{tag}-torch{torch.__version__}")

        def run(self) -> None:
            # One that an earlier build left would be packed, or loaded, with a _C it does not fit.
            for folder in (Path(self.build_lib), ROOT) if self.inplace else (Path(self.build_lib),):
                for stale in folder.glob("fishermask_fast/_C_cuda*.so"):
                    stale.unlink()
            try:
                super().run()
            except (RuntimeError, OSError, CCompilerError) as error:
                raise BuildError(f"the compiled ops could not be built: {error}") from error

    return BuildOps


def description() -> str:
    """README for a package index, where links into the repository must say which it is."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    source = f"{urls['Source']}/blob/main/"

    def absolute(link: re.Match[str]) -> str:
        raw = "?raw=true" if link["image"] else ""
        return f"{link['image']}[{link['text']}]({source}{link['target']}{raw})"

    links = r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?!https?://)(?P<target>[^)]+)\)"
    return re.sub(links, absolute, (ROOT / "README.md").read_text(encoding="utf-8"))


def main() -> None:
    check_setuptools()
    about = {
        "long_description": description(),
        "long_description_content_type": "text/markdown",
    }
    if not builds_ops():
        setup(**about)
        return
    check_compiler()
    torch = import_torch()
    from torch.utils.cpp_extension import CppExtension

    cpu = extension(
        CppExtension,
        "fishermask_fast._C",
        sources("csrc/*.cpp", "csrc/cpu/*.cpp"),
        {"cxx": CXX_FLAGS},
    )
    setup(ext_modules=[cpu], cmdclass={"build_ext": build_command(torch)}, **about)


if __name__ == "__main__":
    main()
