"""Loading the compiled ops, and how they were built.

Importing this module loads ``_C``, which registers every op for the CPU, and then ``_C_cuda``
where it was built and can be loaded; without it everything works on the CPU. A package that was
installed without compiled ops, by FISHERMASK_BUILD=0 or from the pure wheel, registers their
definitions.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from importlib import metadata

import torch  # before _C: it brings in the libraries that _C is linked against

from fishermask_fast.checks import caller_level

logger = logging.getLogger(__name__)


def _installed_pure() -> bool:
    """Whether what is installed was built without compiled ops, as its wheel says.

    A build leaves a description without a wheel's in the source folder, which is found as well.
    """
    found = metadata.distributions(name="fishermask-fast")
    return any("Root-Is-Purelib: true" in (each.read_text("WHEEL") or "") for each in found)


def _load_cpu() -> torch.library.Library | None:
    """Registers every op for the CPU; the library of their definitions where nothing is compiled.

    Raises:
        ImportError: the compiled ops are missing or cannot be loaded.
    """
    if importlib.util.find_spec("fishermask_fast._C") is None and _installed_pure():
        warnings.warn(
            "fishermask_fast is installed without compiled ops: every op runs its definition in "
            "plain torch, with the same picks, many times more slowly. FISHERMASK_BUILD=0 asks for "
            "this, and pip takes such a wheel (py3-none-any) where no compiled one fits this "
            "Python and system; with a compiler, installing from the sources builds the ops",
            RuntimeWarning,
            stacklevel=caller_level(),
        )
        from fishermask_fast.ops import definitions

        return definitions.register()
    try:
        from fishermask_fast import _C
    except ImportError as error:
        raise ImportError(
            "fishermask_fast's compiled ops could not be loaded. They are built by "
            "'pip install .' (or 'pip install -e .') in the source folder; a source folder that "
            "was not built shadows an installed package when Python runs in it. Without a compiler "
            f"FISHERMASK_BUILD=0 installs their definitions in plain torch. ({error})"
        ) from error
    _C.instruction_set()
    return None


def _load_cuda() -> str | None:
    """Loads the CUDA ops; why they are not there, or None where they are."""
    if importlib.util.find_spec("fishermask_fast._C_cuda") is None:
        return "not built"
    try:
        importlib.import_module("fishermask_fast._C_cuda")
    except ImportError as error:
        logger.info("the CUDA ops were built but could not be loaded: %s", error)
        return f"not loaded: {error}"
    return None


_DEFINITIONS = _load_cpu()  # kept: its ops go with it
_WHY_NO_CUDA = _load_cuda()


def has_cuda_ops() -> bool:
    """Whether the ops have kernels for CUDA tensors."""
    return _WHY_NO_CUDA is None


@dataclass(frozen=True)
class BuildInfo:
    """How the compiled ops were built, and what they run with in this process.

    Example:
        >>> from fishermask_fast import build_info
        >>> build_info().instruction_set in ("portable", "avx2", "avx512", "none")
        True
    """

    compiler: str  # "none" where every op runs its definition in plain torch
    cpp_standard: int  # the value of __cplusplus
    torch_built: str  # the torch whose headers the ops were compiled with
    torch_target: str  # the oldest torch that they can be loaded under
    torch_running: str
    instruction_set: str  # portable, avx2 or avx512
    machine_instruction_set: str  # the widest this machine can run
    threads: int
    cuda: str  # the CUDA version that the CUDA ops were built with, or why there are none
    cuda_architectures: str  # as in TORCH_CUDA_ARCH_LIST; empty without CUDA ops


def build_info() -> BuildInfo:
    """States how the compiled ops were built, and what they run with in this process.

    Example:
        >>> import torch
        >>> from fishermask_fast import build_info
        >>> build_info().torch_running == torch.__version__
        True
    """
    if _DEFINITIONS is not None:
        return BuildInfo(
            compiler="none",
            cpp_standard=0,
            torch_built="none",
            torch_target="none",
            torch_running=str(torch.__version__),
            instruction_set="none",
            machine_instruction_set="none",
            threads=torch.get_num_threads(),
            cuda=_WHY_NO_CUDA or "",
            cuda_architectures="",
        )
    from fishermask_fast import _C

    facts = _C.build_facts()
    cuda, architectures = _WHY_NO_CUDA or "", ""
    if _WHY_NO_CUDA is None:
        from fishermask_fast import _C_cuda

        cuda_facts = _C_cuda.build_facts()
        cuda, architectures = cuda_facts["cuda_version"], cuda_facts["architectures"]
    return BuildInfo(
        compiler=facts["compiler"],
        cpp_standard=facts["cpp_standard"],
        torch_built=facts["torch_version"],
        torch_target=facts["torch_target_version"],
        torch_running=str(torch.__version__),
        instruction_set=_C.instruction_set(),
        machine_instruction_set=_C.machine_instruction_set(),
        threads=_C.threads(),
        cuda=cuda,
        cuda_architectures=architectures,
    )
