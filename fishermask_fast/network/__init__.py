"""What a model and its data are: outputs z_x = f(x; theta), sample by sample.

Rooms: evaluation (eval mode and what is restored after it), attributes (tensors that modules keep),
batches (samples by index), collating (batches that hold what was asked for), graph (which operation
consumes which parameter), head (which layer gives the logits), stated (what a model says of its
likelihood). May import: likelihoods and below.
"""

from __future__ import annotations

from fishermask_fast.network.attributes import KeptTensors
from fishermask_fast.network.batches import (
    Pool,
    check_count,
    check_indices,
    check_seed,
    take,
    to_model,
)
from fishermask_fast.network.collating import (
    Inputs,
    Keywords,
    count_samples,
    model_inputs,
    rebuilt,
    samples_of,
)
from fishermask_fast.network.evaluation import (
    CONVOLUTIONS,
    call,
    check_device,
    check_finite,
    compute_dtype,
    device_of,
    drop_kept_tensors,
    evaluating,
    input_dtype,
    logits_of,
    outputs_of,
    outputs_of_samples,
    raw_outputs,
    trainable,
    unflattening,
    unwrap,
)
from fishermask_fast.network.graph import (
    VIEWS,
    Consumer,
    Consumers,
    Edge,
    Graph,
    Trail,
    asking,
    find_again,
    find_consumers,
    match_consumers,
    read_graph,
    result_shapes,
    trial_samples,
    uncached,
)
from fishermask_fast.network.head import (
    Head,
    find_head,
    head_candidates,
    head_parameters,
    is_under,
    one_head,
)
from fishermask_fast.network.stated import (
    LIKELIHOOD_OF_PROBLEM,
    problem_type,
    warn_where_another_is_stated,
)

__all__ = [
    "VIEWS",
    "Consumer",
    "Consumers",
    "Edge",
    "Graph",
    "Trail",
    "asking",
    "find_again",
    "find_consumers",
    "match_consumers",
    "read_graph",
    "result_shapes",
    "trial_samples",
    "CONVOLUTIONS",
    "Head",
    "Inputs",
    "LIKELIHOOD_OF_PROBLEM",
    "KeptTensors",
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
    "drop_kept_tensors",
    "evaluating",
    "find_head",
    "head_candidates",
    "head_parameters",
    "input_dtype",
    "Keywords",
    "model_inputs",
    "rebuilt",
    "samples_of",
    "is_under",
    "logits_of",
    "one_head",
    "outputs_of",
    "problem_type",
    "outputs_of_samples",
    "raw_outputs",
    "take",
    "to_model",
    "trainable",
    "uncached",
    "unflattening",
    "unwrap",
    "warn_where_another_is_stated",
]
