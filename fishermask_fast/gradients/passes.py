"""The way through a pool that masked gradients and the Fisher diagonal share.

Batch by batch: inputs to the model, and a plan from the first batch's samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fishermask_fast.gradients.capture import Plan
from fishermask_fast.gradients.kept import trace_past_kept_tensors
from fishermask_fast.gradients.planning import plan_from
from fishermask_fast.gradients.tracing import Traced
from fishermask_fast.network import (
    Inputs,
    Pool,
    call,
    count_samples,
    device_of,
    evaluating,
    input_dtype,
    to_model,
    trainable,
    unwrap,
)
from fishermask_fast.progress import progress_bar

# Memory for one batch's activations and gradients, and the most samples it is spent on.
_BUDGET = {"cpu": (256 * 2**20, 256), "cuda": (4 * 2**30, 1024)}
# A convolution on the CPU is faster channels last, but turns its weights at every pass: that pays
# where a batch's activations are this many times larger than they are.
_CHANNELS_LAST = 8


def batches(
    net: nn.Module,
    pool: Pool,
    names: list[str],
    batch_size: int | None,
    progress: bool,
    start: int = 0,
) -> Iterator[tuple[int, Inputs, Plan]]:
    """(index of the first sample, inputs on the model's device, plan) of batches from `start`."""
    device = device_of(net)
    trial = pool.first(3)
    trial = to_model(trial, device, input_dtype(net, trial))
    traced = trace_past_kept_tensors(net, trial, names)
    plan = plan_from(traced, net, names)
    size = batch_size or pool.batch_size or _fitting_size(plan, device)
    held = plan.bytes_per_sample * min(size, len(pool))
    channels_last = not plan.others and _channels_last_pays(net, traced, held)
    with progress_bar(len(pool), "gradients", "samples", progress, start) as done:
        for inputs in pool.batches(size, start):
            inputs = to_model(inputs, device, input_dtype(net, inputs))
            if channels_last and isinstance(inputs, Tensor):
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            n = count_samples(inputs)
            yield start, inputs, plan
            start += n
            done(n)


def slow_parameters(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Trainable parameters without a rule, whose gradients torch.func takes sample by sample.

    Args:
        model: any; given back as it was.
        inputs: a batch, of which at most three samples are tried.
    """
    names = list(trainable(unwrap(model)))
    with evaluating(model) as net:
        inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
        return plan_from(trace_past_kept_tensors(net, inputs, names), net, names).others


def _fitting_size(plan: Plan, device: torch.device) -> int:
    """Samples a batch that stay within the budget of the device."""
    memory, most = _BUDGET.get(device.type, _BUDGET["cpu"])
    return max(1, min(most, memory // max(plan.bytes_per_sample, 1)))


def _channels_last_pays(net: nn.Module, traced: Traced, held: int) -> bool:
    """Whether to give the model its images channels last.

    Args:
        net: the model.
        traced: a few samples on their way through it.
        held: bytes of a whole batch's activations and gradients.
    """
    images = traced.inputs
    if not isinstance(images, Tensor) or images.ndim != 4 or images.device.type != "cpu":
        return False
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    if not weights or held < _CHANNELS_LAST * sum(weight.nbytes for weight in weights):
        return False
    expected = traced.logits.detach()
    with torch.no_grad():
        try:
            found = call(net, images.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # of a view that only the usual strides allow
            return False
    # A model that reads strides would be far off.
    return bool((found - expected).abs().max() <= 1e-2 * expected.abs().max())
