"""What is installed: versions, devices, and how this copy was built."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata

import torch

from fishermask_fast.ops import build_info
from fishermask_fast.version import __version__

VERSIONED = ("fishermask-fast", "torch", "torchvision", "numpy", "scikit-learn")


def versions() -> dict[str, str | None]:
    """Versions of Python, of the system and of the packages that decide a run's numbers."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def print_info() -> None:
    """Show versions, devices and how this copy was built."""
    facts: dict[str, object] = {"version": __version__}
    facts |= dataclasses.asdict(build_info())
    facts["devices"] = ", ".join(
        ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    )
    facts |= {name: found or "not installed" for name, found in versions().items()}
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<26}{value}")
