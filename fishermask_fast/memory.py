"""How much memory a device has left, and whether what is asked for fits into it.

Of a host that is the least of what the kernel can hand out, what the control groups of this process
leave it, and what its own limits (`ulimit -v`, `ulimit -d`) leave it. Pages that only keep files
are counted as free, since the kernel takes them back when memory is short.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType

import torch

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

_ROOT = Path("/")
_UNLIMITED = 2**60  # which the first version writes as a number near 2^63
# By version of control groups: limit, usage, and the counters of pages that keep files.
_GROUP_FILES = {
    1: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
}


def available_memory(device: torch.device | str) -> int | None:
    """Bytes that this process can still take on a device; None where nobody can tell.

    Every check of memory compares with this number. Of a GPU it is what is free and what torch
    holds without using it. Where the system does not tell what is free (macOS), it is all there is.

    Args:
        device: the CPU or a GPU.

    Returns:
        At least 0. Other processes may take it meanwhile.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _host_memory(_ROOT) if device.type == "cpu" else None


def check_memory(k: int, device: torch.device, remedy: str = "Mask fewer parameters.") -> None:
    """Raise where the (k, k) matrices of a selection do not fit into the device's free memory.

    Raises:
        ValueError: says how large M would be, and the remedy.
    """
    needed = matrices_bytes(k, 5)  # F, F_L, M^-1, G and one at work
    available = available_memory(device)
    if available is not None and needed > available:
        raise ValueError(
            f"{k} masked parameters need float64 matrices M and F of {k} x {k}, "
            f"{8 * k * k / 2**30:.1f} GiB each and {needed / 2**30:.1f} GiB in all; "
            f"{device} has {available / 2**30:.1f} GiB free. {remedy}"
        )


def matrices_bytes(k: int, count: float) -> int:
    """Bytes of some (k, k) float64 matrices."""
    return int(count * 8 * k * k)


def _host_memory(root: Path) -> int | None:
    """The least that anything leaves to this process, by the system's files below `root`."""
    left = [*_left_by_groups(root), *_left_by_limits(root)]
    free = _numbers(root / "proc/meminfo").get("MemAvailable")
    if free is not None:
        left.append(free)
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):  # which Windows lacks
        left.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(left), 0) if left else None


def _left_by_limits(root: Path) -> Iterator[int]:
    """What the limits on this process's address space leave of it."""
    if resource is None:
        return
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            taken = _numbers(root / "proc/self/status").get(name)
            if taken is not None:
                yield most - taken


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in, and each above it, leaves of its limit."""
    for version, folder in _groups(root):
        limit_file, usage_file, kept = _GROUP_FILES[version]
        limit = _number(folder / limit_file)
        if limit is None or limit >= _UNLIMITED:
            continue
        usage = _number(folder / usage_file)
        if usage is not None:
            counters = _numbers(folder / "memory.stat")
            yield limit - usage + sum(counters.get(name, 0) for name in kept)


def _groups(root: Path) -> Iterator[tuple[int, Path]]:
    """(version, folder) of the groups that account for this process's memory."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else None
        if version is None or version not in mounts:
            continue
        top, folder = mounts[version]
        # A container sees the groups below its own, and its path from there or from the host's.
        inside = PurePosixPath(path)
        if inside.is_relative_to(top):
            inside = inside.relative_to(top)
        parts = [part for part in inside.parts if part not in ("/", "..")]
        for depth in range(len(parts) + 1):
            yield version, folder.joinpath(*parts[:depth])


def _mounts(root: Path) -> dict[int, tuple[str, Path]]:
    """By version of control groups: the group that is mounted, and where."""
    found: dict[int, tuple[str, Path]] = {}
    for line in _lines(root / "proc/self/mountinfo"):
        # 35 31 0:32 GROUP FOLDER rw,relatime - cgroup cgroup rw,memory
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version == 2 or "memory" in kind[2].split(","):
            found.setdefault(version, (fields[3], root / fields[4].lstrip("/")))
    return found


def _number(file: Path) -> int | None:
    """The whole number in a file; None where there is none, as for "max"."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _numbers(file: Path) -> dict[str, int]:
    """Bytes by name from lines such as `MemFree:  123 kB` and `active_file 456`."""
    found = {}
    for line in _lines(file):
        name, *rest = line.split()[:3] or [""]
        if rest and rest[0].isdecimal():
            found[name.rstrip(":")] = int(rest[0]) * (1024 if rest[1:] == ["kB"] else 1)
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
