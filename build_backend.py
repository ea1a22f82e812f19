"""setuptools' build backend, which asks for torch only where compiled ops are built.

``FISHERMASK_BUILD=0 pip install .`` builds a package of pure Python, and downloads no torch for it.
"""

from __future__ import annotations

import os
from typing import Any

from setuptools.build_meta import *  # noqa: F403  every hook that is not defined below


def _needed_to_compile() -> list[str]:
    if os.environ.get("FISHERMASK_BUILD") == "0":
        return []
    return ["ninja", "pybind11>=2.13", "torch>=2.11"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _needed_to_compile()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _needed_to_compile()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []
