"""The build: what it says of itself, what it links, and its messages to whoever starts it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import fishermask_fast
from fishermask_fast import _C, build_info

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["portable", "avx2", "avx512"]


@pytest.fixture
def setup_module() -> ModuleType:
    """setup.py as a module; it builds only when run as a script."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FISHERMASK_CUDA", "FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def toolkit(home: Path, release: str, compiles: bool = True) -> Path:
    """A folder that looks like a CUDA toolkit of this release."""
    answer = f'echo "Cuda compilation tools, release {release}, V{release}.1"'
    failure = "echo unsupported GNU version >&2; exit 1"
    script(
        home / "bin" / "nvcc",
        f'if [ "$1" = --version ]; then {answer}; else {":" if compiles else failure}; fi',
    )
    header = home / "include" / "cuda_runtime.h"
    header.parent.mkdir(parents=True)
    header.touch()
    return home


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_what_is_installed_is_told_by_its_wheel_not_by_what_a_build_left(tmp_path: Path) -> None:
    """A build in the source folder leaves a description there, which Python finds first."""
    for folder, files in (
        ("left/fishermask_fast.egg-info", {"PKG-INFO": ""}),
        ("site/fishermask_fast-0.2.0.dist-info", {"METADATA": "", "WHEEL": "Root-Is-Purelib: %s"}),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / folder / name).write_text(f"Name: fishermask-fast\nVersion: 0.2.0\n{text}")
    wheel = tmp_path / "site" / "fishermask_fast-0.2.0.dist-info" / "WHEEL"
    for said in ("true", "false"):
        wheel.write_text(f"Root-Is-Purelib: {said}\n")
        code = (
            "import fishermask_fast.ops.loading as loading, sys; "
            f"sys.path[:] = [{str(tmp_path / 'left')!r}, {str(tmp_path / 'site')!r}]; "
            "print(loading._installed_pure())"
        )
        ran = run_python(code)
        assert ran.stdout.strip() == str(said == "true"), ran.stderr


def test_build_info_states_the_facts_of_this_process() -> None:
    info = build_info()
    assert info.torch_target == "2.11"
    assert info.cpp_standard >= 202002
    assert info.torch_running == torch.__version__
    assert info.threads == torch.get_num_threads()
    assert ORDER.index(info.instruction_set) <= ORDER.index(info.machine_instruction_set)
    assert bool(info.cuda_architectures) == bool(re.fullmatch(r"\d+\.\d+", info.cuda))


def test_version_has_one_source_and_core_needs_torch_and_numpy_only() -> None:
    metadata = importlib.metadata.metadata("fishermask-fast")
    assert metadata["Version"] == fishermask_fast.__version__
    required = importlib.metadata.requires("fishermask-fast") or []
    core = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}
    assert core == {"numpy", "torch"}


def test_instruction_set_is_lowered_and_raised_back_but_not_above_the_machine() -> None:
    before, machine = _C.instruction_set(), _C.machine_instruction_set()
    try:
        for name in ORDER:
            _C.set_instruction_set(name)
            assert _C.instruction_set() == ORDER[min(ORDER.index(name), ORDER.index(machine))]
        with pytest.raises(ValueError, match="'portable', 'avx2' or 'avx512'; got 'sse9'"):
            _C.set_instruction_set("sse9")
    finally:
        _C.set_instruction_set(before)


def test_environment_lowers_the_instruction_set() -> None:
    code = "import fishermask_fast as f; print(f.build_info().instruction_set)"
    assert run_python(code, FISHERMASK_ISA="portable").stdout.strip() == "portable"


def test_unknown_instruction_set_in_the_environment_fails_the_first_use() -> None:
    result = run_python("from fishermask_fast import fast_select", FISHERMASK_ISA="sse9")
    assert result.returncode != 0
    assert "ValueError: the environment variable FISHERMASK_ISA" in result.stderr
    assert "got 'sse9'" in result.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_compiled_ops_use_the_stable_interface_only() -> None:
    listing = subprocess.run(
        ["nm", "-D", "-C", "--undefined-only", _C.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    symbols = [line.split(maxsplit=1)[1] for line in listing.splitlines()]
    from_torch = [name for name in symbols if re.match(r"(aoti_)?torch_", name)]
    assert from_torch
    assert not [name for name in symbols if re.search(r"\b(at|c10|torch)::|THP", name)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 build")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_wide_registers_stay_inside_their_own_units() -> None:
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", _C.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    widest: dict[str, int] = {"avx512": 0, "avx2": 0, "elsewhere": 0}
    for function in re.split(r"\n(?=[0-9a-f]{16} <)", listing):
        unit = re.match(r"[^\n]*fishermask::(avx512|avx2)::", function)
        place = unit.group(1) if unit else "elsewhere"
        width = 512 if "%zmm" in function else 256 if "%ymm" in function else 0
        widest[place] = max(widest[place], width)
    assert widest == {"avx512": 512, "avx2": 256, "elsewhere": 0}


def test_missing_compiler_is_named(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(SystemExit, match=r"C\+\+20 compiler.*'/nonexistent/c\+\+' was not found"):
        setup_module.check_compiler()


def test_old_compiler_is_named(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = script(
        tmp_path / "c++",
        'if [ "$1" = --version ]; then echo "c++ (GCC) 4.8.5"; else echo bad >&2; exit 1; fi',
    )
    monkeypatch.setenv("CXX", str(old))
    with pytest.raises(SystemExit, match=r"GCC\) 4\.8\.5\) does not compile C\+\+20"):
        setup_module.check_compiler()


def test_torch_older_than_the_target_is_refused(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.10.1"))
    with pytest.raises(SystemExit, match=r"torch >= 2\.11; got 2\.10\.1"):
        setup_module.import_torch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"torch >= 2\.11 where it builds"):
        setup_module.import_torch()


@pytest.mark.parametrize(
    ("environment", "choice"),
    [
        ({}, "auto"),
        ({"FISHERMASK_CUDA": "AUTO"}, "auto"),
        ({"FISHERMASK_CUDA": "0", "FORCE_CUDA": "1"}, "0"),
        ({"FORCE_CUDA": "1"}, "1"),
        ({"FORCE_CUDA": "0"}, "auto"),
    ],
)
def test_cuda_choice(
    setup_module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    choice: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert setup_module.cuda_choice() == choice


def test_unknown_cuda_choice_is_named(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FISHERMASK_CUDA", "yes")
    with pytest.raises(SystemExit, match="FISHERMASK_CUDA must be auto, 0 or 1; got 'yes'"):
        setup_module.cuda_choice()


def test_cuda_home_is_found_behind_a_wrapper(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = toolkit(tmp_path / "cuda", "13.0")
    script(tmp_path / "path" / "nvcc", f"echo '#$ _HERE_={home}/bin' >&2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    assert setup_module.find_cuda_home() == home
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "elsewhere"))
    assert setup_module.find_cuda_home() is None


@pytest.mark.parametrize(
    ("torch_cuda", "release", "compiles", "message"),
    [
        (None, "13.0", True, "built without CUDA"),
        ("13.0", None, True, "no nvcc was found"),
        ("12.4", "11.8", True, "nvcc must be >= 12.0; .*nvcc is 11.8"),
        ("13.0", "12.6", True, "same major version as torch's CUDA, 13.0; .*nvcc is 12.6"),
        ("13.0", "13.1", False, "unsupported GNU version"),
    ],
)
def test_obstacle_to_cuda_is_an_error_when_asked_for_and_passed_over_otherwise(
    setup_module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    torch_cuda: str | None,
    release: str | None,
    compiles: bool,
    message: str,
) -> None:
    home = None if release is None else toolkit(tmp_path / "cuda", release, compiles)
    monkeypatch.setattr(setup_module, "find_cuda_home", lambda: home)
    fake = SimpleNamespace(__version__="2.14.1", version=SimpleNamespace(cuda=torch_cuda))
    warnings: list[str] = []

    assert setup_module.cuda_extension(fake, ["op.cu"], warnings.append) is None
    if torch_cuda is None:
        assert warnings == []
    else:
        assert len(warnings) == 1 and re.search(message, warnings[0])

    monkeypatch.setenv("FISHERMASK_CUDA", "1")
    with pytest.raises(
        SystemExit, match=f"FISHERMASK_CUDA=1 asks for the CUDA ops, but (?s:.*){message}"
    ):
        setup_module.cuda_extension(fake, ["op.cu"], warnings.append)

    monkeypatch.setenv("FISHERMASK_CUDA", "0")
    assert setup_module.cuda_extension(fake, ["op.cu"], warnings.append) is None


def test_default_architectures_are_those_that_nvcc_offers(
    setup_module: ModuleType, tmp_path: Path
) -> None:
    nvcc = script(tmp_path / "nvcc", "printf 'compute_80\\ncompute_90\\ncompute_103\\n'")
    assert setup_module.default_architectures(nvcc) == "8.0;9.0+PTX"
    assert setup_module.default_architectures(script(tmp_path / "old", ":")) == "9.0+PTX"


def test_working_nvcc_is_no_obstacle(setup_module: ModuleType, tmp_path: Path) -> None:
    fake = SimpleNamespace(__version__="2.14.1", version=SimpleNamespace(cuda="13.0"))
    assert setup_module.why_no_cuda(fake, toolkit(tmp_path, "13.2")) is None
