"""setuptools' build backend, which asks for torch only where compiled ops are built.

``FISHERMASK_BUILD=0 pip install .`` builds a package of pure Python, and downloads no torch for it.
What would keep the ops from being compiled is told first: torch is a download of gigabytes.
"""

from __future__ import annotations

from typing import Any

from setuptools.build_meta import *  # noqa: F403  every hook that is not defined below

from setup import builds_ops, check_compiler, cuda_choice


def _needed_to_compile() -> list[str]:
    if not builds_ops():
        return []
    cuda_choice()
    check_compiler()
    return ["ninja", "pybind11>=2.13", "torch>=2.11"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _needed_to_compile()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _needed_to_compile()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []
