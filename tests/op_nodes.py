"""One small graph for each operation of autograd that has a rule."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from fishermask_fast.gradients.reading import SAVED

x = torch.randn(2, 4, 6)
w = torch.randn(6, requires_grad=True)
matrix = torch.randn(6, 6, requires_grad=True)
tokens = torch.randint(0, 6, (2, 4))

# Only a GPU has these two.
ELSEWHERE = ("CudnnBatchNormBackward0", "FusedRmsNormBackward0")

_MAKE: dict[str, Callable[[], Tensor]] = {
    "AddmmBackward0": lambda: torch.addmm(w, x[0], matrix),
    "MmBackward0": lambda: x[0] @ matrix,
    "BmmBackward0": lambda: torch.bmm(x, matrix.expand(2, 6, 6)),
    "BaddbmmBackward0": lambda: torch.baddbmm(w, x, matrix.expand(2, 6, 6)),
    "TrilinearBackward0": lambda: torch._trilinear(
        x[0], matrix[None], x[0], [1, 3], [0], [1, 2], [2, 3]
    ),
    "MvBackward0": lambda: torch.mv(x[0], w),
    "ConvolutionBackward0": lambda: nn.Conv1d(4, 3, 2)(x),
    "NativeLayerNormBackward0": lambda: F.layer_norm(x, (6,), w, w),
    "FusedRmsNormBackward0": lambda: F.rms_norm(x.cuda(), (6,), w.cuda()),
    "NativeGroupNormBackward0": lambda: nn.GroupNorm(2, 4)(x),
    "NativeBatchNormBackward0": lambda: nn.BatchNorm1d(4).eval()(x),
    "CudnnBatchNormBackward0": lambda: nn.BatchNorm2d(4).eval().cuda()(x[..., None].cuda()),
    "PreluKernelBackward0": lambda: nn.PReLU(4)(x),
    "EmbeddingBackward0": lambda: F.embedding(tokens, matrix),
    "EmbeddingBagBackward0": lambda: F.embedding_bag(tokens, matrix),
    "IndexBackward0": lambda: matrix[tokens],
    "IndexSelectBackward0": lambda: matrix.index_select(0, tokens[0]),
    "MulBackward0": lambda: x * w,
    "DivBackward0": lambda: w / x,
    "WhereBackward0": lambda: torch.where(x > 0, w, x),
    "AddBackward0": lambda: x + w,
    "SubBackward0": lambda: x - w,
    "ExpandBackward0": lambda: w.expand(2, 6),
    "RepeatBackward0": lambda: w.repeat(2),
}
assert _MAKE.keys() == SAVED.keys()


def node_of(kind: str) -> Node | None:
    """An operation of this kind; None where this machine has none."""
    if kind in ELSEWHERE and not torch.cuda.is_available():
        return None
    node = _MAKE[kind]().grad_fn
    return node if node is not None and node.name() == kind else None
