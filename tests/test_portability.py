"""Systems that lack what Linux has: files of gradients are written and read there too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MISSING = {
    "macOS": ("posix_fadvise", "posix_fallocate", "fdatasync"),
    "Windows": (
        *("posix_fadvise", "posix_fallocate", "fdatasync", "preadv", "pread", "pwrite"),
        *("O_CLOEXEC", "O_DIRECTORY", "sysconf", "sysconf_names"),
    ),
}

PROGRAM = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

folder, modules, names = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]
if "torch.distributed" in modules:
    import torch.distributed
    del torch.distributed.ProcessGroup
if "fcntl" in modules:
    sys.modules["fcntl"] = None
for name in names:
    delattr(os, name)

import fishermask_fast as fast
from fishermask_fast.factors import tensor_file

torch.manual_seed(0)
model, data = nn.Linear(6, 3), torch.randn(40, 6)
mask = fast.FisherMask.head(model)
whole = fast.masked_gradients(model, data, mask, batch_size=7)

write_rows, calls = tensor_file.write_rows, []
def stopped(*arguments):
    calls.append(None)
    if len(calls) == 3:
        raise KeyboardInterrupt
    write_rows(*arguments)

import fishermask_fast.gradients.resumable as resumable
resumable.write_rows = stopped
try:
    fast.masked_gradients(model, data, mask, batch_size=7, out=folder / "pool")
except KeyboardInterrupt:
    pass
resumable.write_rows = write_rows
assert (folder / "pool.part").exists()
stored = fast.masked_gradients(model, data, mask, batch_size=7, out=folder / "pool")
saved = fast.save_factors(whole, folder / "saved")

def read(file):
    return torch.cat([chunk.dense().clone() for _, chunk in file.chunks(3)])

with ThreadPoolExecutor(4) as threads:  # of which each moves the same file's position
    for found in threads.map(read, [stored, saved] * 8):
        assert torch.equal(found, whole.dense())
expected = fast.select_batch(whole, 9).indices
assert torch.equal(fast.select_batch(stored, 9).indices, expected)
assert len(fast.FisherMaskSelector(model, mask="head").query(data, 3, progress=False)) == 3
"""


@pytest.mark.parametrize("system", MISSING)
def test_what_a_system_lacks(system: str, tmp_path: Path) -> None:
    modules = "torch.distributed fcntl" if system == "Windows" else "torch.distributed"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), modules, *MISSING[system]]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
