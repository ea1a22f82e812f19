"""What looks wrong in a model's outputs and in its data, in words that say what to do.

Nothing here has a part in the gradients: outputs that are no logits, noise that stays on in eval
mode, pixels that nobody scaled, samples that differ each time they are read.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fishermask_fast.likelihoods import LikelihoodLike, likelihood_of
from fishermask_fast.network.batches import Pool, to_model
from fishermask_fast.network.collating import Inputs, same_inputs
from fishermask_fast.network.evaluation import (
    device_of,
    evaluating,
    input_dtype,
    raw_outputs,
    unwrap,
)
from fishermask_fast.network.graph import VIEWS, asking
from fishermask_fast.network.stated import LIKELIHOOD_OF_PROBLEM, problem_type

# Of two passes of the same samples, relative to the largest.
_FAR = 5e-3
_PIXELS = 16.0  # no image of mean 0 and deviation 1, or of 0 to 1, reaches this
_NORMALISED_APART = 10.0
_SCALE = 1e5


def output_warnings(model: nn.Module, inputs: Inputs, likelihood: LikelihoodLike) -> list[str]:
    """What looks wrong in a model's outputs for a few samples, and what to do."""
    return list(_output_warnings(model, inputs, likelihood_of(likelihood).name))


def _output_warnings(model: nn.Module, inputs: Inputs, likelihood: str) -> Iterator[str]:
    name = type(unwrap(model)).__name__
    with evaluating(model) as net:
        inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
        with asking([p for p in net.parameters() if p.is_floating_point()]):
            outputs = raw_outputs(net, inputs)
            ending = _last_operation(outputs)
        with torch.no_grad():
            again = raw_outputs(net, inputs)
    outputs = outputs.detach().double()
    between = bool(((outputs >= 0) & (outputs <= 1)).all())
    if likelihood == "categorical" and between and outputs.ndim == 2:
        ones = bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
        if ones:
            yield (
                f"the outputs of {name} are probabilities (rows sum to one and lie in [0, 1]), but "
                "logits are expected: leave out its softmax, or return log-probabilities"
            )
    if between and ending == "SigmoidBackward0" and likelihood in ("categorical", "bernoulli"):
        yield (
            f"the outputs of {name} have gone through a sigmoid, but logits are expected: leave it "
            'out, and give likelihood="bernoulli" where each label is for itself'
        )
    kind = problem_type(model)
    meant = LIKELIHOOD_OF_PROBLEM.get(str(kind), likelihood)
    if meant != likelihood == "categorical":
        yield (
            f"the configuration of {name} says problem_type={kind!r}, but its outputs are taken "
            f'for logits of one of C classes: give likelihood="{meant}"'
        )
    if relative_difference(outputs, again.double()) > _FAR:
        yield (
            f"two passes of the same samples through {name} differ in eval mode: dropout or other "
            "noise stays on; pass training=self.training to functional dropout"
        )


def scale_warnings(model: nn.Module, inputs: Inputs, lamb: float) -> list[str]:
    """Whether pixels of 0 to 255 go into a network that expects others."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 3 or not inputs.numel():
        return []
    values = inputs.detach().float()
    if float(values.max()) <= _PIXELS or float(values.min()) < 0:
        return []
    seen: list[Tensor] = []
    with evaluating(model) as net, torch.no_grad():
        inputs = to_model(inputs, device_of(net), input_dtype(net, inputs))
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        handles = [m.register_forward_pre_hook(lambda _, a: seen.append(a[0])) for m in norms[:1]]
        try:
            outputs = raw_outputs(net, inputs)
        finally:
            for handle in handles:
                handle.remove()
    if seen:
        known = norms[0].running_var
        assert known is not None  # evaluating refuses others
        spread = seen[0].float().transpose(0, 1).flatten(1).var(1)
        ratio = float((spread.mean() / known.float().mean().clamp_min(1e-12)).sqrt())
        if ratio <= _NORMALISED_APART:
            return []
        why = f"its first BatchNorm expects values {ratio:.0f} times smaller"
    else:
        scale = float(outputs.double().square().sum(1).mean()) / lamb
        if scale < _SCALE:
            return []
        why = f"its outputs are of size {scale**0.5:.0f} against lamb = {lamb:g}"
    return [
        f"inputs lie in {float(values.min()):.0f} to {float(values.max()):.0f}, as pixels do, but "
        f"{type(unwrap(model)).__name__} was made for others ({why}): give the data the transform "
        "of evaluation, with the mean and standard deviation of training"
    ]


def pool_warnings(pool: Pool) -> list[str]:
    """Whether a sample that is read twice is the same."""
    first, second = (pool.first(1) for _ in range(2))
    if same_inputs(first, second):
        return []
    return [
        "a sample that is read twice differs: the dataset's transform is random, so that gradients "
        "and picks depend on the draw; give the data the transform of evaluation"
    ]


def _last_operation(outputs: Tensor) -> str:
    """Name of the operation that gave the outputs, views apart."""
    node = outputs.grad_fn
    while node is not None and node.name() in VIEWS and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return "" if node is None else str(node.name())


def relative_difference(one: Tensor, other: Tensor) -> float:
    """Largest difference against the largest magnitude."""
    scale = float(other.abs().max()) if other.numel() else 0.0
    apart = float((one - other).abs().max()) if other.numel() else 0.0
    return apart / scale if scale > 0 else apart
