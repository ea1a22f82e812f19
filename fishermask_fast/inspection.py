"""What a careful person tests before trusting a selection from a model.

    V_x in a batch = V_x alone          where a kernel looks at a batch's shape, or samples meet
    V_x^T V_x = J_x^T R_x^T R_x J_x     the rules, against plain autograd of each sample alone

and whether what comes out are the outputs that the likelihood takes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fishermask_fast.checks import check_positive, listed
from fishermask_fast.gradients import masked_gradients, slow_parameters
from fishermask_fast.likelihoods import LikelihoodLike, likelihood_of
from fishermask_fast.masks import FisherMask, parts_of_tensors
from fishermask_fast.network import (
    Head,
    Inputs,
    asking,
    check_samples,
    count_samples,
    device_of,
    evaluating,
    find_head,
    head_parameters,
    input_dtype,
    model_inputs,
    output_warnings,
    outputs_of_samples,
    raw_outputs,
    relative_difference,
    scale_warnings,
    take,
    to_model,
    trainable,
    unwrap,
)

_SAMPLES = 3
_MASKED = 400  # parameters whose rows are compared, a few of every tensor
_MOST_ROWS = 12
# Relative differences of float32 gradients through a deep network (measured: up to 2e-4).
_FAR = 5e-3


@dataclass(frozen=True, repr=False)
class ModelReport:
    """What was found of a model; ``print`` it.

    Attributes:
        model: the class's name.
        n_parameters: parameters in all, and of these, by
        n_trainable: those that are not frozen.
        outputs: shape of the outputs of the samples tried.
        head: the head's name, None where none was found.
        n_head: its trainable parameters.
        batch_error: largest relative difference between rows of a batch and each sample's alone.
        rule_error: between V_x^T V_x of the package and of plain autograd.
        slow: parameters whose gradients are taken by torch.func, sample by sample.
        forward_seconds: of a forward pass of the samples.
        gradient_seconds: of the masked gradients of the same samples.
        slow_seconds: what of these the slow parameters take.
        warnings: what looks wrong, and what to do.

    Example:
        >>> import torch
        >>> from fishermask_fast import inspect_model
        >>> report = inspect_model(torch.nn.Linear(4, 3), torch.rand(3, 4))
        >>> report.outputs, report.n_head, report.slow
        ((3, 3), 15, ())
    """

    model: str
    n_parameters: int
    n_trainable: int
    outputs: tuple[int, ...]
    head: Head | None
    n_head: int
    batch_error: float
    rule_error: float
    slow: tuple[str, ...]
    forward_seconds: float
    gradient_seconds: float
    slow_seconds: float
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing looks wrong."""
        return not self.warnings

    def __repr__(self) -> str:
        head = "none found" if self.head is None else f"{self.head}, {self.n_head:,} parameters"
        gradient = self.gradient_seconds / max(self.forward_seconds, 1e-9)
        lines = [
            f"model       {self.model}, {self.n_trainable:,} trainable of "
            f"{self.n_parameters:,} parameters",
            f"outputs     {self.outputs}",
            f"head        {head}",
            f"in a batch  rows differ from each sample's alone by {self.batch_error:.1e}",
            f"rules       differ from plain autograd by {self.rule_error:.1e}",
            f"time        {gradient:.1f} forward passes for the gradients, a plan included",
        ]
        if self.slow:
            share = self.slow_seconds / max(self.forward_seconds, 1e-9)
            lines.append(
                f"slow        {len(self.slow)} tensors go by torch.func, {share:.1f} forward "
                f"passes of these: {listed(self.slow, 4)}"
            )
        return "\n".join([*lines, *(f"warning     {text}" for text in self.warnings)])


def inspect_model(
    model: nn.Module,
    inputs: object,
    *,
    likelihood: LikelihoodLike = "categorical",
    head: Head | None = None,
    lamb: float = 1.0,
) -> ModelReport:
    """Tests a model on a few samples: are its per-sample gradients what they are taken for?

    A multi-label model trained with BCEWithLogitsLoss has outputs that look like those of one of C
    classes: nothing can tell it from them, so give its ``likelihood``.

    Args:
        model: as for `masked_gradients`; run in eval mode, and given back as it was.
        inputs: a batch, of which the first three samples are tried: a tensor (n, ...), a dict of
            keyword arguments, or a tuple whose first item is one of these.
        likelihood: as for `FisherMaskSelector`.
        head: the head's name; None reads it from the graph of the outputs.
        lamb: lambda of M, against which the scale of the gradients is held.

    Returns:
        A report; print it.

    Raises:
        TypeError: a model or batch of the wrong type, or outputs in which there are no logits.
        ValueError: the model does not take the batch, or outputs are not those of the likelihood.

    Example:
        >>> import torch
        >>> from fishermask_fast import inspect_model
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> print(inspect_model(model, torch.rand(3, 4)))  # doctest: +ELLIPSIS
        model       Sequential, 15 trainable of 15 parameters
        outputs     (3, 3)
        head        1, 15 parameters
        ...
    """
    check_positive("lamb", lamb)
    trainable(unwrap(model))
    batch = _checked_batch(inputs)
    n = min(_SAMPLES, count_samples(batch))
    name = type(unwrap(model)).__name__
    with evaluating(model) as net:
        some = to_model(take(batch, torch.arange(n)), device_of(net), input_dtype(net, batch))
        start = time.perf_counter()
        with torch.no_grad():
            outputs = outputs_of_samples(net, some, "these")
        forward_seconds = time.perf_counter() - start
    likelihood_of(likelihood).check_shape(outputs.shape)
    found = find_head(model, some) if head is None else head
    own = () if found is None else head_parameters(model, found)
    parameters = trainable(unwrap(model))
    mask = _spread(parameters)
    pool, slow = _Batch(some), slow_parameters(model, some)
    seconds, rows = _timed_rows(model, pool, mask, likelihood)
    alone = _timed_rows(model, pool, mask, likelihood, batch_size=1)[1]
    ruled = {key: index for key, index in mask.indices.items() if key not in slow}
    fast = seconds if not slow else 0.0
    if slow and ruled:
        fast = _timed_rows(model, pool, replace(mask, indices=ruled), likelihood)[0]
    warned = [*output_warnings(model, some, likelihood), *scale_warnings(model, some, lamb)]
    batch_error = relative_difference(_grams(rows), _grams(alone))
    plain = _plain_rows(model, some, mask, likelihood)
    rule_error = relative_difference(_grams(rows), _grams(plain))
    if batch_error > _FAR:
        warned.append(
            f"samples of a batch change each other's gradients, by {batch_error:.1e}: look for "
            "statistics over the batch, or use batch_size=1"
        )
    if rule_error > _FAR:
        warned.append(
            f"gradients differ from plain autograd's by {rule_error:.1e}: please report the model"
        )
    return ModelReport(
        model=name,
        n_parameters=sum(p.numel() for p in unwrap(model).parameters()),
        n_trainable=sum(p.numel() for p in parameters.values()),
        outputs=tuple(outputs.shape),
        head=found,
        n_head=sum(parameters[key].numel() for key in own),
        batch_error=batch_error,
        rule_error=rule_error,
        slow=slow,
        forward_seconds=forward_seconds,
        gradient_seconds=seconds,
        slow_seconds=max(0.0, seconds - fast),
        warnings=tuple(warned),
    )


def _spread(parameters: dict[str, nn.Parameter]) -> FisherMask:
    """A mask of a few entries of every tensor, with no head kept apart."""
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    sizes = {name: p.numel() for name, p in parameters.items() if p.numel()}
    count = min(sum(sizes.values()), max(_MASKED, len(sizes)))
    indices = {
        name: torch.arange(part) * sizes[name] // part
        for name, part in parts_of_tensors(sizes, count).items()
        if part
    }
    return FisherMask(shapes, indices, "spread")


class _Batch(torch.utils.data.Dataset[Any]):
    """The samples of one batch, one by one."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return count_samples(self.inputs)

    def loader(self, batch_size: int) -> Any:
        return torch.utils.data.DataLoader(self, batch_size, collate_fn=self._collate)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index

    def _collate(self, places: list[int]) -> Inputs:
        return take(self.inputs, torch.tensor(places))


def _timed_rows(
    model: nn.Module,
    pool: _Batch,
    mask: FisherMask,
    likelihood: LikelihoodLike,
    batch_size: int = _SAMPLES,
) -> tuple[float, Tensor]:
    start = time.perf_counter()
    rank = _rank(model, pool.inputs, likelihood)
    data = pool.loader(batch_size)
    found = masked_gradients(model, data, mask, likelihood=likelihood, rank=rank)
    return time.perf_counter() - start, found.dense().double()


def _rank(model: nn.Module, inputs: Inputs, likelihood: LikelihoodLike) -> int | None:
    """Fewer rows where all of them would take too many passes."""
    with evaluating(model) as net, torch.no_grad():
        outputs = raw_outputs(net, inputs)
    if likelihood_of(likelihood).name != "categorical" or outputs.shape[1] <= _MOST_ROWS:
        return None
    return _MOST_ROWS


def _plain_rows(
    model: nn.Module, inputs: Inputs, mask: FisherMask, likelihood: LikelihoodLike
) -> Tensor:
    """V_x of each sample alone by autograd and nothing else, (n, r, k)."""
    rank, found = _rank(model, inputs, likelihood), []
    with evaluating(model) as net:
        wanted = [dict(net.named_parameters())[name] for name in mask.indices]
        for i in range(count_samples(inputs)):
            with asking(wanted):
                outputs = raw_outputs(net, take(inputs, torch.tensor([i])))
                rows = likelihood_of(likelihood).make_rows(outputs.detach(), rank=rank)[0]
                flat = outputs.flatten()
                of_sample = []
                for row in rows.to(flat.dtype):
                    grads = torch.autograd.grad(
                        flat, wanted, row, retain_graph=True, allow_unused=True
                    )
                    parts = [
                        (torch.zeros_like(p) if g is None else g).flatten()[index]
                        for p, g, index in zip(wanted, grads, mask.indices.values(), strict=True)
                    ]
                    of_sample.append(torch.cat(parts))
            found.append(torch.stack(of_sample))
    return torch.stack(found).double()


def _grams(rows: Tensor) -> Tensor:
    """V_x^T V_x of each sample, in which rows of other signs or order are the same."""
    return rows.mT @ rows


def _checked_batch(inputs: object) -> Inputs:
    """A batch of at least one sample, in numbers that are all finite.

    Raises:
        TypeError: no batch, or a sparse one.
        ValueError: no samples, or NaN or Inf among them.
    """
    batch = model_inputs(inputs)
    for part in (batch,) if isinstance(batch, Tensor) else batch.values():
        if not isinstance(part, Tensor):
            continue
        check_samples("inputs", part, alone=isinstance(batch, Tensor))
        if part.is_floating_point() and not bool(part.isfinite().all()):
            raise ValueError("inputs must be a batch of finite numbers; it holds NaN or Inf")
    return batch
