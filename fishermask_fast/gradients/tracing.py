"""A few samples of a pool on their way through the model: all forward passes that a plan asks for.

Two samples together, three, and each of the two alone; one of those under other tensors in the
parameters' places, since of a tensor that the model kept from before

    z = f(x; theta, g),   g = g(theta) made before

the graph leads to the parameters and not to what takes their places (see kept.py).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fishermask_fast.gradients.fallback import call_with
from fishermask_fast.network import (
    Graph,
    Inputs,
    asking,
    call,
    outputs_of_samples,
    read_graph,
    take,
    trial_samples,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alone:
    """One sample alone.

    Attributes:
        logits: (1, outputs), with their graph.
        leaves: what stood in the parameters' places.
    """

    logits: Tensor
    leaves: Mapping[str, Tensor]


@dataclass(frozen=True)
class Traced:
    """What the forward passes left.

    Attributes:
        inputs: two samples.
        logits: theirs, (2, outputs).
        graph: theirs.
        larger: of three samples, the two and the first again.
        alone: each of the two; empty where the model takes no batch of one.
        found: parameters that the graph leads to.
        lost: parameters of which some graph loses sight.
        bytes_per_sample: what autograd keeps for the backward pass.
    """

    inputs: Inputs
    logits: Tensor
    graph: Graph
    larger: Graph
    alone: tuple[Alone, ...]
    found: frozenset[str]
    lost: tuple[str, ...]
    bytes_per_sample: int


class _SavedBytes(saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass, parameters left out."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in parameters}
        self.sizes: dict[int, int] = {}
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its graph, a saved result would hold itself for ever

    def total(self) -> int:
        return sum(self.sizes.values())


def trace(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Traced:
    """Takes the samples through the model.

    Args:
        model: as `evaluation.evaluating` gives it.
        inputs: a batch, of which two samples are tried.
        names: the parameters whose gradients are wanted.

    Raises:
        TypeError, ValueError: a model that does not take such samples.
    """
    parameters = dict(model.named_parameters())
    two, three = trial_samples(inputs)
    with asking([parameters[name] for name in names]):
        outputs = outputs_of_samples(model, two, "data")
        logits = outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)
        graph = read_graph(logits)
        saved = _SavedBytes(parameters.values())
        with saved:
            larger = read_graph(call(model, three))
        alone = _alone(model, two, parameters)
        # The one alone, or else the two, since what is kept may be of a size of batch.
        again = take(two, torch.tensor([1])) if alone is not None else two
        other = replaced(model, again, names)
        second = other
        if alone is None or other is None:
            second = (
                None if alone is None else _alone(model, take(two, torch.tensor([1])), parameters)
            )
    found = frozenset(name for name in names if id(parameters[name]) in graph.leaves)
    lost = [name for name in names if name not in found]
    if other is not None:
        leaves = read_graph(other.logits).leaves
        lost = [name for name in names if not (name in found and id(other.leaves[name]) in leaves)]
    both = () if alone is None or second is None else (alone, second)
    return Traced(two, logits, graph, larger, both, found, tuple(lost), saved.total() // 3)


def _alone(model: nn.Module, inputs: Inputs, leaves: Mapping[str, Tensor]) -> Alone | None:
    """The first of some samples; None where the model takes no batch of one."""
    try:
        return Alone(call(model, take(inputs, torch.tensor([0]))), leaves)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        logger.info("the model takes no batch of 1: %s", error)
        return None


def replaced(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Alone | None:
    """The samples with other tensors of the same values in all parameters' places."""
    values = {name: p.detach() for name, p in model.named_parameters()}
    for name in names:
        values[name].requires_grad_(True)
    try:
        return Alone(call_with(model, values, inputs), values)
    except (RuntimeError, NotImplementedError) as error:
        logger.debug("torch.func cannot replace the model's parameters: %s", error)
        return None
