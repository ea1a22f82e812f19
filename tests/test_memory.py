"""What is left of a host's memory: by the kernel, control groups and limits of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fishermask_fast import memory
from fishermask_fast.memory import available_memory, check_memory

GIB = 2**30
V1_UNLIMITED = 9223372036854771712


def machine(root: Path, *, free: int, cgroup: str = "", mounts: str = "") -> Path:
    """A tree as /proc has it: `free` bytes available, the process in these groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:  {64 * GIB // 1024} kB\nMemAvailable:  {free // 1024} kB\n"
    )
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mounts)
    return root


def group(folder: Path, version: int, limit: int | str, usage: int, kept: int = 0) -> None:
    """A control group's files: half of what it `kept` of files is active."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit_file, usage_file = names if version == 1 else ("memory.max", "memory.current")
    prefix = "total_" if version == 1 else ""
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / usage_file).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\n{prefix}active_file {kept // 2}\n{prefix}inactive_file {kept - kept // 2}\n"
    )


V1 = "36 32 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "30 23 0:27 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = "22 1 0:20 / /proc rw - proc proc rw\n33 32 0:29 / /cpu rw - cgroup cgroup rw,cpu\n"
MOUNT = {1: "sys/fs/cgroup/memory", 2: "sys/fs/cgroup"}


def lines(version: int, path: str, top: str = "/") -> dict[str, str]:
    own = f"4:memory:{path}\n" if version == 1 else f"0::{path}\n"
    return {
        "cgroup": f"7:cpu,cpuacct:/else\n{own}",
        "mounts": OTHERS + (V1 if version == 1 else V2).format(top=top),
    }


def test_what_the_kernel_can_hand_out(tmp_path: Path) -> None:
    assert memory._host_memory(machine(tmp_path, free=3 * GIB)) == 3 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_leaves_its_limit_less_what_it_uses(version: int, tmp_path: Path) -> None:
    root = machine(tmp_path, free=50 * GIB, **lines(version, "/job"))
    group(root / MOUNT[version] / "job", version, 8 * GIB, 5 * GIB, kept=2 * GIB)
    assert memory._host_memory(root) == 5 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tightest", [0, 1, 2])
def test_the_tightest_of_all_groups_above_counts(
    version: int, tightest: int, tmp_path: Path
) -> None:
    root = machine(tmp_path, free=50 * GIB, **lines(version, "/user/job"))
    for depth, path in enumerate(("", "user", "user/job")):
        limit = 4 * GIB if depth == tightest else 40 * GIB
        group(root / MOUNT[version] / path, version, limit, GIB)
    assert memory._host_memory(root) == 3 * GIB


@pytest.mark.parametrize(("version", "limit"), [(1, V1_UNLIMITED), (2, "max")])
def test_groups_without_a_limit(version: int, limit: object, tmp_path: Path) -> None:
    root = machine(tmp_path, free=2 * GIB, **lines(version, "/job"))
    group(root / MOUNT[version] / "job", version, limit, GIB)  # type: ignore[arg-type]
    assert memory._host_memory(root) == 2 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("/docker/abc", "/docker/abc"),  # the host's path, its group mounted at the top
        ("/docker/abc", "/"),  # the host's path, and a mount that shows the container's alone
        ("/", "/"),  # a name space of its own
        ("/../..", "/"),
    ],
)
def test_containers(version: int, path: str, top: str, tmp_path: Path) -> None:
    root = machine(tmp_path, free=50 * GIB, **lines(version, path, top))
    group(root / MOUNT[version], version, 6 * GIB, 2 * GIB)
    assert memory._host_memory(root) == 4 * GIB


def test_a_group_above_its_limit_leaves_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, free=50 * GIB, **lines(2, "/job"))
    group(root / MOUNT[2] / "job", 2, 2 * GIB, 3 * GIB)
    assert memory._host_memory(root) == 0


@pytest.mark.parametrize("damage", ["", "nonsense\n\n::\n- - -\n", "0::/gone\n", "\udcff"])
def test_trees_that_say_nothing(damage: str, tmp_path: Path) -> None:
    root = machine(tmp_path, free=GIB)
    for name in ("cgroup", "mountinfo"):
        (root / "proc/self" / name).write_text(damage, errors="surrogateescape")
    assert memory._host_memory(root) == GIB


@pytest.mark.parametrize("known", [True, False])
def test_systems_without_proc(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf_names", sizes if known else {})
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert available_memory("cpu") == (40960 if known else None)
    if known:
        with pytest.raises(ValueError, match="cpu has 0.0 GiB free. Mask fewer"):
            check_memory(100, torch.device("cpu"))
    else:
        check_memory(10**6, torch.device("cpu"))


LIMITED = """
import resource, sys
from fishermask_fast.memory import available_memory, check_memory
import torch
before = available_memory("cpu")
taken = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
kind, room = sys.argv[1], 2**30
used = int(taken[{"AS": "VmSize", "DATA": "VmData"}[kind]].split()[0]) * 1024
resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (used + room, -1))
left = available_memory("cpu")
assert before > 1.5 * room and 0.8 * room < left <= 1.01 * room, (before, left)
kept = torch.ones(room // 16, dtype=torch.float64)
assert left - 1.1 * kept.nbytes < available_memory("cpu") < left - 0.9 * kept.nbytes
try:
    check_memory(6000, torch.device("cpu"))
except ValueError as error:
    assert "GiB free" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["AS", "DATA"])
def test_limits_of_the_process(kind: str) -> None:
    command = [sys.executable, "-c", LIMITED, kind]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_a_gpus_free_memory_and_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 9 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    assert available_memory("cuda:0") == 6 * GIB
    with pytest.raises(ValueError, match="cuda:0 has 6.0 GiB free"):
        check_memory(20_000, torch.device("cuda:0"))


def test_devices_of_which_nobody_can_tell() -> None:
    assert available_memory("meta") is None
