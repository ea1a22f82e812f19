"""Active learning by Fisher masks: pick the batch that most reduces tr(M^-1 F), exactly and fast.

``fast_select`` picks from per-sample gradients; ``FisherMaskSelector`` goes all the way from a
model and a pool.
"""

from __future__ import annotations

from fishermask_fast.ops import BuildInfo, build_info

__version__ = "0.1.0"

__all__ = ["BuildInfo", "__version__", "build_info"]
