"""Whether a batch's samples kept their order on the way to every layer watched.

With one cotangent row c_n and powers of two s_n that differ among neighbours, both for sample n,

    delta_l(s c)[n] = s_n delta_l(c)[n]

holds where row n of layer l belongs to sample n, and fails where it belongs to another, as in a
model that sorts its samples by length and sorts them back. It costs two passes, and is only asked
where the model moves values by index at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fishermask_fast.gradients.capture import Tape

_PERIOD = 8
# Another sample's factor is off by half at least; rounding, even of bfloat16, is far below this.
_TOLERANCE = 0.1


def check_order(tape: Tape) -> None:
    """Raises where a layer met the samples in another order than theirs.

    Raises:
        RuntimeError: says at which parameters.
    """
    n, n_classes = tape.logits.shape
    if n == 1 or not tape.edges:
        return
    # Unequal weights, since a constant one may vanish behind a softmax.
    weights = torch.linspace(0.5, 1.5, n_classes, device=tape.logits.device).to(tape.logits.dtype)
    scales = 0.5 ** (torch.arange(n, device=tape.logits.device) % _PERIOD)
    passes = [
        torch.autograd.grad(
            tape.logits,
            tape.edges,
            grad_outputs=cotangent.to(tape.logits.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        for cotangent in (weights.expand(n, -1), scales[:, None] * weights)
    ]
    for names, layout, plain, scaled in zip(tape.names, tape.layouts, *passes, strict=True):
        if plain is None or scaled is None:
            continue
        expected, found = (_by_sample(layout.arrange(delta)) for delta in (plain, scaled))
        expected = expected * scales[:, None]
        off = (found - expected).abs().amax(1) > _TOLERANCE * expected.abs().amax(1)
        if off.any():
            raise RuntimeError(
                f"the model's path changes with its input: at {names} samples of "
                "a batch stand in another order than in the data; use batch_size=1, or leave "
                "the order alone"
            )


def _by_sample(delta: Tensor) -> Tensor:
    return delta.float().flatten(1) if delta.dtype.itemsize < 4 else delta.flatten(1)
