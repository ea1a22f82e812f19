"""What a rule reads: one operation of a batch's graph, and what that has saved.

All that is used of autograd's private fields stands in one table, so that a release of torch in
which one is missing is known by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from fishermask_fast.gradients.places import Layout
from fishermask_fast.gradients.terms import Term

# From an operation's output gradient to a parameter's term.
Maker = Callable[[Tensor], Term]

_BATCH_NORM = ("_saved_training", "_saved_input", "_saved_running_mean", "_saved_running_var")
_NORM = ("_saved_input", "_saved_result1", "_saved_result2")
_LOOKUP = ("_saved_indices", "_saved_padding_idx", "_saved_scale_grad_by_freq")

# What each operation must have saved for its rule: all that is used of autograd's private fields.
SAVED: dict[str, tuple[str, ...]] = {
    "AddmmBackward0": ("_saved_mat1", "_saved_mat2", "_saved_alpha", "_saved_beta"),
    "MmBackward0": ("_saved_self", "_saved_mat2"),
    "BmmBackward0": ("_saved_self", "_saved_mat2"),
    "BaddbmmBackward0": ("_saved_batch1", "_saved_batch2", "_saved_alpha", "_saved_beta"),
    "TrilinearBackward0": (
        "_saved_i1", "_saved_i3", "_saved_expand1", "_saved_expand2", "_saved_expand3",
        "_saved_sumdim",
    ),
    "MvBackward0": ("_saved_self",),
    "ConvolutionBackward0": (
        "_saved_input", "_saved_stride", "_saved_padding", "_saved_dilation", "_saved_groups",
        "_saved_transposed",
    ),
    "NativeLayerNormBackward0": _NORM,
    "FusedRmsNormBackward0": ("_saved_input", "_saved_result1"),
    "NativeGroupNormBackward0": (*_NORM, "_saved_group"),
    "NativeBatchNormBackward0": (*_BATCH_NORM, "_saved_eps"),
    "CudnnBatchNormBackward0": (*_BATCH_NORM, "_saved_epsilon"),
    "PreluKernelBackward0": ("_saved_self",),
    "EmbeddingBackward0": _LOOKUP,
    "EmbeddingBagBackward0": (
        *_LOOKUP, "_saved_mode", "_saved_offsets", "_saved_per_sample_weights",
    ),
    "IndexBackward0": ("_saved_indices",),
    "IndexSelectBackward0": ("_saved_index", "_saved_dim"),
    "MulBackward0": ("_saved_self", "_saved_other"),
    "DivBackward0": ("_saved_other",),
    "WhereBackward0": ("_saved_condition",),
    "AddBackward0": ("_saved_alpha",),
    "SubBackward0": ("_saved_alpha",),
    "ExpandBackward0": (),
    "RepeatBackward0": ("_saved_repeats",),
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One operation of a batch's graph, and the argument asked for.

    Attributes:
        node: the operation.
        argument: which of its arguments consumes the parameter.
        shape: of that argument.
        layout: the samples' place in the result.
        dtype: what gradients are computed in.
    """

    node: Node
    argument: int
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype

    def saved(self, field: str) -> Any:
        """What the operation saved; floating-point numbers in the dtype of the gradients.

        Raises:
            RuntimeError: it has been overwritten since.
        """
        assert field in SAVED[self.node.name()]
        value = getattr(self.node, field)
        if isinstance(value, Tensor):
            value = value.detach()
            return value.to(self.dtype) if value.is_floating_point() else value
        return value

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the operation's result."""
        return tuple(self.node._input_metadata[0].shape)


def missing_fields(node: Node) -> list[str]:
    """What a rule reads of an operation that this release of torch does not save."""
    return [field for field in SAVED[node.name()] if not hasattr(type(node), field)]
