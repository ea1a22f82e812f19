"""The compiled ops of csrc/, one typed wrapper and one fake kernel for each.

An op is a schema in csrc/ops.cpp, a kernel body in csrc/cpu, and in csrc/cuda where there is one, a
wrapper here that takes tensors and says what is wrong with them, the same in plain torch in
definitions (what runs where nothing was compiled), and samples in tests/op_samples*.py. Rooms:
loading (finds _C and _C_cuda), forms (V Q V^T, the set-up), selection (A, B and scores by updates),
blocks (many picks in one launch), weights (dW = delta a^T), definitions. May import: reference,
checks, triangles.
"""

from __future__ import annotations

from fishermask_fast.ops.blocks import PickedBlock, pick_block
from fishermask_fast.ops.loading import BuildInfo, build_info, has_cuda_ops
from fishermask_fast.ops.selection import FactorTensors

__all__ = [
    "BuildInfo",
    "build_info",
    "FactorTensors",
    "PickedBlock",
    "has_cuda_ops",
    "pick_block",
]
