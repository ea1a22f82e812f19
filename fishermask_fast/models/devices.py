"""Where networks compute: devices by name."""

from __future__ import annotations

import torch

from fishermask_fast.options import meant


def find_device(name: str | None) -> torch.device:
    """The device of that name, or the best one there is.

    Raises:
        ValueError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    expected = f"device must be one of {', '.join(present)}; got {name!r}"
    expected += meant(name, present)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(expected) from error
    if device.type == "meta":  # has no values to train on
        raise ValueError(expected)
    return device
