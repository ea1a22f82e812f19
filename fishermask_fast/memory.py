"""What of a device's memory there is, and whether what is asked for fits into it."""

from __future__ import annotations

import os

import torch


def check_memory(k: int, device: torch.device, remedy: str = "Mask fewer parameters.") -> None:
    """Raise where the (k, k) matrices of a selection cannot fit in the device's memory.

    Raises:
        ValueError: says how large M would be, and the remedy.
    """
    needed = 5 * 8 * k * k  # F, F_L, M^-1, G and one at work
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[1]
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):  # which Windows lacks
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    if needed > available:
        raise ValueError(
            f"{k} masked parameters need float64 matrices M and F of {k} x {k}, "
            f"{8 * k * k / 2**30:.1f} GiB each and {needed / 2**30:.1f} GiB in all; "
            f"{device} has {available / 2**30:.1f} GiB. {remedy}"
        )
