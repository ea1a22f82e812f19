"""What masked gradients depend on, in a few words that go into their file.

Two runs with the same fingerprint write the same file. The pool is known by its size and a few of
its samples, since reading all of it may take as long as the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fishermask_fast.arrays import digest
from fishermask_fast.likelihoods import Likelihood, different_likelihoods
from fishermask_fast.masks import FisherMask
from fishermask_fast.network import Inputs, Pool, device_of, input_dtype, raw_outputs, to_model
from fishermask_fast.version import __version__

_SAMPLES = 8
_HASHED = ("data", "indices", "mask", "model")


def fingerprint(
    model: nn.Module,
    pool: Pool,
    mask: FisherMask,
    *,
    indices: Sequence[int] | None,
    likelihood: Likelihood,
    weighting: str,
    rank: int | None,
    dtype: torch.dtype,
) -> dict[str, str]:
    """What the gradients of a pool depend on, by name.

    Args:
        model: whose gradients, in eval mode.
        pool: the samples, those at `indices` where these are given.
        mask: of which parameters.
        indices: which samples of the data; None for all.
        likelihood: that of `masked_gradients`.
        weighting: as in `masked_gradients`.
        rank: as in `masked_gradients`.
        dtype: of the gradients.
    """
    spread = sorted({round(i * (len(pool) - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
    samples = [pool.subset([i]).first(1) for i in spread]
    positions = [] if indices is None else [("", torch.tensor(indices))]
    return {
        "fishermask_fast": __version__,
        "samples": str(len(pool)),
        "data": digest(item for sample in samples for item in _tensors(sample)),
        "indices": "all" if indices is None else digest(positions),
        "mask": digest(mask.indices.items(), str((mask.shapes, mask.head_names))),
        "model": digest(
            (*model.named_parameters(), *model.named_buffers()),
            # Not the repr, which may hold addresses.
            str([(name, type(module).__qualname__) for name, module in model.named_modules()]),
        ),
        "likelihood": likelihood.identity(_outputs(model, sample) for sample in samples),
        "weighting": weighting,
        "rank": "exact" if rank is None else str(int(rank)),
        "dtype": str(dtype).removeprefix("torch."),
    }


def differences(there: dict[str, str], here: dict[str, str]) -> str:
    """In which entries of a fingerprint two files differ, in words; empty where in none."""
    found = []
    for name, value in here.items():
        other = there.get(name)
        if name == "likelihood" and other is not None:
            if difference := different_likelihoods(other, value):
                found.append(f"{name} ({difference})")
        elif other != value:
            known = f" ({other} there, {value} here)" if name not in _HASHED else ""
            found.append(name + (" (not stated there)" if other is None else known))
    return ", ".join(found)


def _outputs(model: nn.Module, sample: Inputs) -> Tensor:
    with torch.no_grad():
        return raw_outputs(model, to_model(sample, device_of(model), input_dtype(model, sample)))


def _tensors(inputs: Inputs) -> list[tuple[str, Tensor]]:
    if isinstance(inputs, Tensor):
        return [("", inputs)]
    return [(name, value) for name, value in inputs.items() if isinstance(value, Tensor)]
