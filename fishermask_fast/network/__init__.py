"""What a model and its data are: outputs z_x = f(x; theta), sample by sample.

Rooms: evaluation (eval mode and what is restored after it), batches (samples by index), head (which
layer gives the logits). May import: factors and below, and no gradients.
"""

from __future__ import annotations

from fishermask_fast.network.batches import (
    Inputs,
    Pool,
    check_count,
    check_indices,
    check_seed,
    count_samples,
    is_batched,
    take,
    to_model,
)
from fishermask_fast.network.evaluation import (
    CONVOLUTIONS,
    call,
    check_device,
    check_finite,
    compute_dtype,
    device_of,
    evaluating,
    input_dtype,
    logits_of,
    outputs_of,
    raw_outputs,
    trainable,
    unflattening,
    unwrap,
)
from fishermask_fast.network.head import find_head

__all__ = [
    "CONVOLUTIONS",
    "Inputs",
    "Pool",
    "call",
    "check_count",
    "check_device",
    "check_finite",
    "check_indices",
    "check_seed",
    "compute_dtype",
    "count_samples",
    "device_of",
    "evaluating",
    "find_head",
    "input_dtype",
    "is_batched",
    "logits_of",
    "outputs_of",
    "raw_outputs",
    "take",
    "to_model",
    "trainable",
    "unflattening",
    "unwrap",
]
