"""The way through a pool that masked gradients and the Fisher diagonal share.

Batch by batch: inputs to the model, a plan from the first batch, and for each of the r rows the
pairs (a, delta) of every parameter that has a rule, from which it takes dW = delta a^T in its form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fishermask_fast.capture import Plan, Site, make_plan
from fishermask_fast.data import Inputs, Pool, count_samples, to_model
from fishermask_fast.evaluation import device_of, input_dtype
from fishermask_fast.layers import LayerRule

# Memory for one batch's activations and gradients, and the most samples it is spent on.
_BUDGET = {"cpu": (256 * 2**20, 256), "cuda": (4 * 2**30, 1024)}


def batches(
    net: nn.Module, pool: Pool, names: list[str], batch_size: int | None, progress: bool
) -> Iterator[tuple[int, Inputs, Plan]]:
    """(index of the first sample, inputs on the model's device, plan) of every batch."""
    device = device_of(net)
    trial = pool.first(3)
    plan = make_plan(net, to_model(trial, device, input_dtype(net, trial)), names)
    size = batch_size or pool.batch_size or _fitting_size(plan, device)
    start = 0
    with _bar(len(pool), progress) as done:
        for inputs in pool.batches(size):
            inputs = to_model(inputs, device, input_dtype(net, inputs))
            n = count_samples(inputs)
            yield start, inputs, plan
            start += n
            done(n)


def _fitting_size(plan: Plan, device: torch.device) -> int:
    """Samples a batch that stay within the budget of the device."""
    memory, most = _BUDGET.get(device.type, _BUDGET["cpu"])
    return max(1, min(most, memory // max(plan.bytes_per_sample, 1)))


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], object]]:
    """A function that counts samples done, on a bar where one is asked for."""
    if not progress:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=" samples", desc="gradients", leave=False) as bar:
        yield bar.update


def prepare(plan: Plan, inputs: list[Tensor | None], dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Each rule's form of its site's input, by parameter name."""
    prepared: list[dict[str, Tensor]] = []
    for site, given in zip(plan.sites, inputs, strict=True):
        forms = {}
        for name, rule in site.rules.items():
            if given is None or not rule.needs_input:
                forms[name] = torch.empty(0, dtype=dtype)
                continue
            a = given.to(dtype) if given.is_floating_point() else given
            forms[name] = rule.prepare(site.module, a)
        prepared.append(forms)
    return prepared


def pairs(
    plan: Plan,
    prepared: list[dict[str, Tensor]],
    deltas: list[Tensor | None],
    dtype: torch.dtype,
) -> Iterator[tuple[Site, str, LayerRule, Tensor, Tensor]]:
    """(site, parameter, rule, a, delta) wherever the logits depend on the site."""
    for site, forms, delta in zip(plan.sites, prepared, deltas, strict=True):
        if delta is None:
            continue
        for name, rule in site.rules.items():
            a = forms[name] if rule.needs_input else delta
            yield site, name, rule, a, delta.to(dtype)
