"""What a rule's rows are compared with, and which parameters are compared with autograd itself.

A weight's whole gradient may be far dearer than all else in a trial, since it is as large as the
weight. Of products and convolutions, which are linear in what was saved and in what comes down,

    dW[n] = sum_t delta[n,t] a[n,t]^T

autograd's whole gradient is taken for one of the two samples; and of several large weights that one
kind of operation consumes with the same settings, it is taken of the smallest. What remains is
compared with the same rule's row for the sample alone: that shows whether samples meet, and whose
rows are whose; and where any rule is found wrong, none is believed for another's sake.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fishermask_fast.gradients.capture import Way
from fishermask_fast.gradients.reading import SAVED
from fishermask_fast.gradients.terms import Term
from fishermask_fast.network import Consumer

# Positions of a parameter at which its rule is compared.
_COMPARED = 256
# Numbers of a weight from which on one stands for all of its kind.
_LARGE = 2**20
# Non-zeros among them that make them worth comparing.
_TELLING = 16
_GOLDEN = (5**0.5 - 1) / 2
_LINEAR = frozenset(f"{name}Backward0" for name in ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution"))


@dataclass(frozen=True)
class Known:
    """A sample's gradient of one parameter, at some flat positions."""

    index: Tensor  # (m,)
    values: Tensor  # (m,)
    largest: float  # of all positions, or of these where the others are not known

    def error(self, rows: Tensor | None) -> float:
        """The largest difference of a rule's row (m,), or of none at all."""
        differences = self.values if rows is None else rows - self.values
        return float(differences.abs().max()) if differences.numel() else 0.0


def known(gradient: Tensor, dtype: torch.dtype) -> Known:
    """Of a whole gradient."""
    flat = gradient.reshape(-1)
    index = _spread(flat.numel(), flat.device)
    if flat.numel() <= _COMPARED:
        return Known(index, flat.to(dtype), float(flat.abs().max()) if flat.numel() else 0.0)
    largest = max(float(end.abs()) for end in torch.aminmax(flat))
    if not float(flat[index].abs().max()) >= largest / 2:
        # Most are small, as in a table of which few rows were looked up.
        index = torch.cat([index, _place_of_largest(flat)[None]])
    return Known(index, flat[index].to(dtype), largest)


def known_by_rule(term: Term | None, parameter: Tensor) -> Known | None:
    """Of a rule's term of one sample; None where the positions say too little."""
    if term is None:
        return None
    index = _spread(parameter.numel(), parameter.device)
    values = term.masked(index)[0]
    if int(values.count_nonzero()) < _TELLING:
        return None
    return Known(index, values, float(values.abs().max()))


def _spread(n: int, device: torch.device) -> Tensor:
    """Positions that meet all rows and columns alike, whatever the width."""
    if n <= _COMPARED:
        return torch.arange(n, device=device)
    steps = torch.arange(_COMPARED, dtype=torch.float64, device=device)
    return (steps * _GOLDEN % 1 * n).long()


def _place_of_largest(flat: Tensor) -> Tensor:
    """Where the largest absolute value is; row by row, since a search is slow beside a maximum."""
    width = math.isqrt(flat.numel())
    whole = flat[: flat.numel() // width * width].view(-1, width)
    rest = flat[whole.numel() :]
    row = torch.maximum(whole.amax(1), -whole.amin(1)).argmax()
    place: Tensor = row * width + whole[row].abs().argmax()
    if rest.numel() and rest.abs().max() > flat[place].abs():
        return rest.abs().argmax() + whole.numel()
    return place


def linear(uses: Iterable[Consumer]) -> bool:
    """Whether a parameter is a factor of products and convolutions only."""
    return all(
        use.kind in _LINEAR and use.argument > 0 or use.kind == "MmBackward0" for use in uses
    )


def stand_ins(
    ways: Mapping[str, tuple[Way, ...]],
    uses: Mapping[str, tuple[Consumer, ...]],
    wanted: Mapping[str, nn.Parameter],
) -> set[str]:
    """The large weights that a smaller one of the same kind stands in for."""
    first: dict[object, str] = {}
    spared = set()
    for name in sorted(ways, key=lambda name: wanted[name].numel()):
        p = wanted[name]
        if len(ways[name]) != 1 or not linear(uses[name]):
            continue
        ((way,), (use,)) = ways[name], uses[name]
        kind = (use.kind, use.argument, way, _settings(use), type(p), p.dtype, p.ndim)
        if kind in first and p.numel() >= _LARGE:
            spared.add(name)
        first.setdefault(kind, name)
    return spared


def _settings(use: Consumer) -> tuple[object, ...]:
    """All that the operation saved and that is no tensor."""
    saved = (getattr(use.node, field, None) for field in SAVED.get(use.kind, ()))
    return tuple(
        tuple(value) if isinstance(value, list) else value
        for value in saved
        if not isinstance(value, Tensor)
    )
