"""What a query needs, counted before it begins: bytes by part, and seconds a step.

    mask        2 P numbers for the Fisher diagonal, and a batch
    gradients   V, N (r k) numbers, or N (r k_mid + r C + d + 1) with the head kept apart; a batch
    selection   V, A and B of every candidate (r (r + 1) / 2 float64 each, and copies at work), and
                k x k float64 matrices: F, F_L, M^-1, G and those at work

The most that any of the three steps holds is what has to be free. Nothing here changes what a query
does: memory may refuse it, and never shrinks k.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fishermask_fast.memory import available_memory, matrices_bytes
from fishermask_fast.network import (
    Head,
    Inputs,
    call,
    evaluating,
    head_parameters,
    raw_outputs,
    unwrap,
)

# Triangles of r (r + 1) / 2 float64 that a candidate holds at most: A, B, copies of both, and the
# whole forms at a set-up (measured: 7.8 to 10.2).
_TRIANGLES = 10.5
# Bytes of its scores, order and marks beside these (measured: 280 to 400); of a pool in a file
# only the scores and marks that stay.
_BESIDE, _BESIDE_FILE = 400, 17
# A block's leaders have their factors copied: so many, or so large a share of all.
_LEADERS, _LEADERS_SHARE = 512, 32
# What a batch's activations may take where nobody sets its size, and numbers of work beside them.
_BATCH_BYTES = 256 * 2**20
_MOST_A_BATCH = 256
_WORK_BYTES = 2**24 * 4
# What torch and its kernels take when they are first used (measured: 60 to 130 MiB).
_LIBRARIES = 128 * 2**20


@dataclass(frozen=True)
class Needs:
    """What a query's memory depends on, in plain numbers.

    Attributes:
        k: masked parameters.
        reason: why so many.
        n_total: P.
        n_rows: r.
        n_pool: N, this process's.
        n_labeled: n_L, this process's.
        sample_numbers: numbers of one sample's factor.
        itemsize: bytes of a number.
        saved_bytes: activations of one sample that its backward pass needs.
        batch_size: samples of a batch, None where memory decides.
        diagonal: whether the mask takes a Fisher diagonal.
        backward: whether samples are dropped again.
        stored: whether the pool's gradients go to a file.
    """

    k: int
    reason: str
    n_total: int
    n_rows: int
    n_pool: int
    n_labeled: int
    sample_numbers: int
    itemsize: int
    saved_bytes: int
    batch_size: int | None
    diagonal: bool
    backward: bool
    stored: bool


@dataclass(frozen=True, repr=False)
class Estimate:
    """What a query will need; ``print`` it for a table.

    Attributes:
        k: masked parameters.
        reason: why so many.
        n_rows: rows r of a sample's factor.
        parts: bytes by step and part.
        available: bytes that are free on the device; None where nobody can tell.
        file_bytes: bytes of the file ``out``, 0 without one.
        seconds: by step, from one timed batch; empty unless timed.
    """

    k: int
    reason: str
    n_rows: int
    parts: dict[str, dict[str, int]]
    available: int | None
    file_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Bytes at the step that holds the most."""
        return max(sum(step.values()) for step in self.parts.values())

    def check(self, device: torch.device) -> None:
        """Raise where a query does not fit into what is free.

        Raises:
            ValueError: says what is needed, by part, what there is, and the ways out.
        """
        if self.available is None or self.peak <= self.available:
            return
        step, parts = max(self.parts.items(), key=lambda item: sum(item[1].values()))
        largest = sorted(parts.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{size(n)} for {name}" for name, n in largest if n > self.peak / 50)
        ways = dict.fromkeys(_WAYS_OUT[name] for name, n in largest if n > self.available / 10)
        raise ValueError(
            f"{step} with k = {self.k:,} masked parameters and r = {self.n_rows} rows a sample "
            f"needs {size(self.peak)} of memory ({listed}); {device} has "
            f"{size(self.available)} free. Ways out: {'; '.join(filter(None, ways))}"
        )

    def __repr__(self) -> str:
        lines = [f"k     {self.k:,} masked parameters: {self.reason}", f"r     {self.n_rows} rows"]
        for step, parts in self.parts.items():
            seconds = f", {self.seconds[step]:.3g} s" if step in self.seconds else ""
            lines.append(f"{step}: {size(sum(parts.values()))}{seconds}")
            lines += [f"    {size(n):>10}  {name}" for name, n in parts.items() if n]
        free = "unknown" if self.available is None else size(self.available)
        lines.append(f"peak  {size(self.peak)} of {free} free")
        if self.file_bytes:
            lines.append(f"file  {size(self.file_bytes)}")
        return "\n".join(lines)


_V, _STATE, _MATRICES = "gradients of the pool", "state of the candidates", "k x k matrices"
_BATCH, _DIAGONAL, _BASE = "a batch's activations", "the Fisher diagonal", "libraries at work"
_WAYS_OUT = {
    _V: "out=path keeps the gradients in a file; rank= takes fewer rows (an approximation)",
    _STATE: "rank= takes fewer rows (an approximation); a smaller pool",
    _MATRICES: "n_parameters= masks fewer parameters",
    _BATCH: "batch_size= takes fewer samples a batch",
    _DIAGONAL: 'mask="head" or "random" needs no Fisher diagonal',
    _BASE: "",
}


def estimate(query: Needs, device: torch.device) -> Estimate:
    """Counts what a query needs on a device."""
    q = query
    sample = q.sample_numbers * q.itemsize
    rows = q.n_pool * sample
    leaders = min(q.n_pool, max(_LEADERS, q.n_pool // _LEADERS_SHARE))
    triangles = int(_TRIANGLES * 8 * (q.n_rows * (q.n_rows + 1) // 2))
    of_candidate = triangles // 2 + _BESIDE_FILE if q.stored else triangles + _BESIDE
    batch = _batch_bytes(q)
    labeled = q.n_labeled > 0
    in_memory = 0 if q.stored else rows
    # Of the labelled samples' gradients first F_L is made, and then only that is kept.
    of_known = q.n_labeled * sample
    parts = {
        "mask": {_DIAGONAL: (2 + labeled) * q.itemsize * q.n_total * q.diagonal, _BATCH: batch},
        "gradients": {
            _V: max(in_memory, of_known),
            _MATRICES: matrices_bytes(q.k, int(labeled)),
            _BATCH: batch,
        },
        "selection": {
            _V: in_memory + leaders * sample,
            _STATE: q.n_pool * of_candidate + leaders * triangles,
            _MATRICES: matrices_bytes(q.k, matrices_at_work(labeled, q.backward)),
        },
    }
    for step in parts.values():
        step[_BASE] = _LIBRARIES
    file_bytes = rows if q.stored else 0
    return Estimate(q.k, q.reason, q.n_rows, parts, available_memory(device), file_bytes)


def matrices_at_work(labeled: bool, backward: bool) -> float:
    """k x k float64 matrices that a selection holds at most (measured: 6.1, 8.7, 13.1, 13.6)."""
    return 13.7 if backward else 8.8 if labeled else 6.2


def _batch_bytes(q: Needs) -> int:
    n = max(q.n_pool, q.n_labeled)
    of_sample = 2 * q.saved_bytes
    most = q.batch_size or max(1, min(_MOST_A_BATCH, _BATCH_BYTES // max(of_sample, 1)))
    # Planning tries three samples and two.
    return max(min(n, most), 5) * of_sample + _WORK_BYTES


@contextmanager
def _counting(sizes: dict[int, int], known: set[int]) -> Iterator[None]:
    def note(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its graph, a saved result would hold itself for ever

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def activations_of(model: nn.Module, inputs: Inputs) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of one sample, parameters left out, and the model's outputs.

    Args:
        model: in eval mode, as ``evaluating`` gives it.
        inputs: a batch of one.
    """
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    known = {p.untyped_storage().data_ptr() for p in parameters}
    sizes: dict[int, int] = {}
    flags = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        with _counting(sizes, known):
            outputs = raw_outputs(model, inputs).detach()
    finally:
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
    return sum(sizes.values()), outputs


def factor_numbers(
    model: nn.Module, head: Head | None, inputs: Inputs, k: int, n_rows: int, whole: bool
) -> int:
    """Numbers of one sample's factor: with the head kept apart where that is sure, else r k.

    Args:
        model: any.
        head: the head's name.
        inputs: a batch of one for it.
        k: masked parameters.
        n_rows: r.
        whole: whether the mask keeps the whole head.
    """
    plain = n_rows * k
    net = unwrap(model)
    modules = dict(net.named_modules())
    module = modules.get(head) if isinstance(head, str) else None
    if not whole or head is None or not isinstance(module, nn.Linear):
        return plain
    own = [p for p in module.parameters() if p.requires_grad]
    masked = sum(p.numel() for p in own)
    apart = n_rows * module.out_features + module.in_features + 1
    shared = len(head_parameters(net, head)) != len(own) or not _vectors(net, module, inputs)
    return plain if shared or apart >= n_rows * masked else plain - n_rows * masked + apart


def _vectors(model: nn.Module, module: nn.Linear, inputs: Inputs) -> bool:
    """Whether a layer takes one vector a sample, once."""
    seen: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].ndim))
    try:
        with evaluating(model) as net, torch.no_grad():
            call(net, inputs)
    finally:
        handle.remove()
    return seen == [2]


def size(n: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
