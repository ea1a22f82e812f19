"""The same numbers in other places of memory: views with random strides, offsets and overlaps.

    python tests/strided.py --calls 20000 [--seed 0]

calls every op through its wrapper that often with such views, on each instruction set that this
machine can run, and compares with the call whose tensors are contiguous.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from op_samples import SAMPLES, Sample
from op_samples_weights import Conv
from torch import Tensor

from fishermask_fast import _C
from fishermask_fast.ops import blocks, forms, selection, weights

# What the memory between a view's numbers holds: whoever reads it finds no number.
_BETWEEN = {torch.int64: torch.iinfo(torch.int64).max // 2}
# Sides at which a transposed image's last offset of a vector's positions is that of neighbours,
# and others.
_SIDES = (1, 2, 3, 5, 6, 7, 14, 16, 30)


def scattered(tensor: Tensor, rng: random.Random) -> Tensor:
    """An equal tensor elsewhere: dimensions in any order, gaps between, an offset, no negatives."""
    order = rng.sample(range(tensor.ndim), tensor.ndim)
    gaps = rng.random() < 0.5
    strides, reach = [0] * tensor.ndim, 1
    for d in order:
        strides[d] = reach * (rng.choice((1, 1, 2, 3)) if gaps else 1)
        reach = strides[d] * max(tensor.shape[d], 1) + (rng.choice((0, 0, 1, 5)) if gaps else 0)
    offset = rng.choice((0, 0, 1, 3))
    memory = torch.full(
        (offset + reach + 1,), _BETWEEN.get(tensor.dtype, torch.nan), dtype=tensor.dtype
    )
    view = memory.as_strided(tensor.shape, strides, offset)
    return view.copy_(tensor)


def overlapped(shape: tuple[int, ...], rng: random.Random, like: Tensor) -> Tensor:
    """A view of random numbers whose places may be each other's: expanded, or sliding windows."""
    strides = [rng.choice((0, 1, 1, 2, 3, 7, 14, 16, 30)) for _ in shape]
    reach = sum(s * max(n - 1, 0) for s, n in zip(strides, shape, strict=True))
    offset = rng.choice((0, 1, 3))
    values = [rng.gauss(0, 1) for _ in range(offset + reach + 1)]
    return like.new_tensor(values).as_strided(shape, strides, offset)


def elsewhere(tensor: Tensor, rng: random.Random) -> Tensor:
    """A floating tensor's values at random places, or other values at overlapping ones."""
    if not tensor.is_floating_point() or rng.random() < 0.6:
        return scattered(tensor, rng)
    return overlapped(tuple(tensor.shape), rng, tensor)


@dataclass(frozen=True)
class _Factors:
    """Factors as an op's wrapper takes them."""

    middle: Tensor
    coupling: Tensor | None
    hidden: Tensor | None
    head_index: Tensor | None

    @property
    def n_columns(self) -> int:
        head = 0
        if self.head_index is not None:
            head = self.head_index.numel()
        elif self.coupling is not None and self.hidden is not None:
            head = self.coupling.shape[2] * self.hidden.shape[1]
        return self.middle.shape[2] + head

    def map(self, change: Callable[[Tensor], Tensor]) -> _Factors:
        parts = (getattr(self, field.name) for field in fields(self))
        return _Factors(*(None if part is None else change(part) for part in parts))


def _score_update(*given: Any) -> Any:
    factors, (index, u, w, ranks, scale, thresholds, wide, a, b, scores) = given[:4], given[4:]
    return selection.score_update(
        _Factors(*factors), index, u, w, ranks, thresholds, a, b, scores,
        scale=scale, float64_products=wide,
    )  # fmt: skip


def _inverse_products(*given: Any) -> Any:
    (index, first, second, u, w, scale, sign) = given[4:]
    return selection.inverse_products(
        _Factors(*given[:4]), index, first, second, u, w, scale=scale, sign=int(sign)
    )


# name -> (the wrapper, taking the op's own arguments; which of them must be contiguous, and are
# refused otherwise).
WRAPPERS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "fisher_diag_conv2d": (weights.fisher_diag_conv2d, ()),
    "fisher_diag_linear": (weights.fisher_diag_linear, ()),
    "fold_updates": (
        lambda first, second, u, w, sign: selection.fold_updates(
            first, second, u, w, sign=int(sign)
        ),
        (0, 1, 2, 3),
    ),
    "inverse_products": (_inverse_products, (5, 6, 7, 8)),
    "masked_grad_conv2d": (weights.masked_grad_conv2d, ()),
    "masked_grad_linear": (weights.masked_grad_linear, ()),
    "masked_head_forms": (forms.masked_head_forms, ()),
    "masked_head_gram": (forms.masked_head_gram, (3,)),
    "pick_block": (
        lambda e, h, traces, rows, size, sign, reach: blocks.pick_block(
            e, h, traces, rows, size, sign=sign, reach=reach
        ),
        (),
    ),
    "pick_update": (
        lambda rows, y, z, sign, negligible: selection.pick_update(
            rows, y, z, sign=int(sign), negligible=negligible
        ),
        (0, 1, 2),
    ),
    "quadratic_forms": (lambda *given: forms.quadratic_forms(_Factors(*given[:4]), given[4]), ()),
    "score_update": (_score_update, (11, 12, 13)),
}


def _mapped(argument: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(argument, list) and argument and isinstance(argument[0], Tensor):
        return [change(part) for part in argument]
    return change(argument) if isinstance(argument, Tensor) else argument


def results(name: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    """What an op returns, and what it leaves in the arguments that must be contiguous."""
    wrapper, kept = WRAPPERS[name]
    found = wrapper(*arguments)
    returned = [found] if isinstance(found, Tensor) else list(found or ())
    return returned + [arguments[at] for at in kept]


def random_conv2d(rng: random.Random, dtype: torch.dtype) -> tuple[Tensor, Tensor, Conv]:
    groups = rng.choice((1, 1, 1, 2, 3))
    side = rng.choice(_SIDES)
    place = (side, side) if rng.random() < 0.5 else (rng.choice(_SIDES), side)
    plain = rng.random() < 0.5
    kernel, stride, dilation = (
        [1 if plain else rng.choice(sizes) for _ in range(2)]
        for sizes in ((1, 2, 3), (1, 1, 2, 3), (1, 1, 2))
    )
    more = rng.choice((0, 0, 0, 1))
    size = [
        (p - 1) * s + (k - 1) * d + 1 + more
        for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)
    ]
    n, wide_in, wide_out = rng.choice((1, 2)), rng.choice((1, 1, 2)), rng.choice((1, 2, 9, 17))
    numbers = torch.Generator().manual_seed(rng.getrandbits(32))
    a = torch.randn(n, wide_in * groups, *size, dtype=dtype, generator=numbers)
    delta = torch.randn(n, wide_out * groups, *place, dtype=dtype, generator=numbers)
    return a, delta, (kernel, stride, dilation, groups)


def random_linear(rng: random.Random, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, tokens = rng.choice((1, 2, 3)), rng.choice((1, 2, 5, 16, 17, 40))
    wide_in, wide_out = rng.choice((1, 2, 9, 30)), rng.choice((1, 2, 9, 17))
    numbers = torch.Generator().manual_seed(rng.getrandbits(32))
    a = torch.randn(n, tokens, wide_in, dtype=dtype, generator=numbers)
    return a, torch.randn(n, tokens, wide_out, dtype=dtype, generator=numbers)


def random_weight_call(name: str, rng: random.Random) -> tuple[tuple[Any, ...], float]:
    """Arguments of one of the ops of weights, and the error that the order of a sum allows.

    The error is a share of the sum of the terms' sizes: the sum itself may be near nothing.
    """
    dtype = rng.choice((torch.float32, torch.float64))
    if name.endswith("conv2d"):
        a, delta, options = random_conv2d(rng, dtype)
        numel = delta.shape[1] * a.shape[1] // options[3] * options[0][0] * options[0][1]
    else:
        (a, delta), options = random_linear(rng, dtype), ()
        numel = delta.shape[2] * a.shape[2]
    bound = 8 * torch.finfo(dtype).eps
    if name.startswith("fisher"):
        return (a, delta, *options), bound
    chosen = rng.sample(range(numel), min(numel, rng.choice((1, 2, 3, 40))))
    return (a, delta, torch.tensor(sorted(chosen)), *options), bound


@cache
def _samples(name: str) -> list[Sample]:
    return list(SAMPLES[name]())


def strided_calls(name: str, seed: int) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Endless (arguments at random places, error allowed; see random_weight_call) of an op."""
    rng = random.Random(seed)
    if name in ("fisher_diag_conv2d", "fisher_diag_linear") or name.startswith("masked_grad"):
        while True:
            arguments, bound = random_weight_call(name, rng)
            operands = (elsewhere(x, rng) for x in arguments[:2])
            rest = (_mapped(x, lambda t: scattered(t, rng)) for x in arguments[2:])
            yield (*operands, *rest), bound
    kept = WRAPPERS[name][1]
    samples = _samples(name)
    while True:
        arguments = rng.choice(samples).arguments
        yield (
            tuple(
                x.clone() if at in kept else _mapped(x, lambda t: scattered(t, rng))
                for at, x in enumerate(arguments)
            ),
            0.0,
        )


def check_call(name: str, arguments: tuple[Any, ...], bound: float) -> None:
    """Raises AssertionError where the call differs from that with contiguous tensors."""
    kept = WRAPPERS[name][1]
    fresh = tuple(
        x.clone() if at in kept else _mapped(x, lambda t: t.contiguous().clone())
        for at, x in enumerate(arguments)
    )
    layouts = [
        (tuple(x.shape), x.stride(), x.storage_offset(), x.dtype)
        for x in arguments
        if isinstance(x, Tensor)
    ]
    before = [x.clone() for at, x in enumerate(arguments) if isinstance(x, Tensor)]
    expected = results(name, fresh)
    sizes = results(name, tuple(_mapped(x, torch.abs) for x in fresh)) if bound else expected
    for got, wanted, size in zip(results(name, arguments), expected, sizes, strict=True):
        allowed = bound * float(size.double().max()) if bound and size.numel() else 0.0
        torch.testing.assert_close(
            got,
            wanted,
            rtol=0.0,
            atol=allowed,
            equal_nan=True,
            msg=lambda m: f"{name} {layouts}: {m}",
        )
    given = [(at, x) for at, x in enumerate(arguments) if isinstance(x, Tensor)]
    for (at, x), was in zip(given, before, strict=True):
        if at not in kept:
            assert torch.equal(x, was) or x.isnan().any(), f"{name} changed its argument {at}"


def instruction_sets() -> list[str]:
    """Those that this machine can run."""
    names = ["portable", "avx2", "avx512"]
    return names[: names.index(_C.machine_instruction_set()) + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sets = instruction_sets()
    each = -(-options.calls // (len(WRAPPERS) * len(sets)))
    failed = 0
    for name in sorted(WRAPPERS):
        for isa in sets:
            _C.set_instruction_set(isa)
            calls = strided_calls(name, options.seed)
            for _ in range(each):
                try:
                    check_call(name, *next(calls))
                except AssertionError as error:
                    failed += 1
                    print(f"{isa}: {error}", file=sys.stderr)
    print(f"{each * len(WRAPPERS) * len(sets)} calls on {', '.join(sets)}: {failed} differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
