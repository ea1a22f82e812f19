"""What a file of pytest-benchmark says of the machine: what times depend on, and not its name."""

from __future__ import annotations

from typing import Any

import torch

from fishermask_fast import build_info


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    for private in ("node", "release"):
        machine_info.pop(private, None)
    machine_info["cpu"].pop("flags", None)
    machine_info["torch"] = str(torch.__version__)
    machine_info["threads"] = torch.get_num_threads()
    machine_info["instruction_set"] = build_info().instruction_set
