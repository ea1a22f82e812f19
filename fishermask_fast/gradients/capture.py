"""One forward and r backward passes of a batch, watched at the operations that consume parameters.

Samples do not interact, so a backward pass with row j of L_x^T for every sample at once gives the
output gradient of every operation l and sample,

    delta_l[n] = (d z[n] / d y_l[n])^T L_n[:, j],

and with what the operation saved that is all a rule needs: no weight gradient is taken. The graph
begins at the earliest parameter wanted, so the passes go no further down.

What goes by rule stands in a plan, which `planning` makes by trying.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from fishermask_fast.gradients.places import Layout, Place
from fishermask_fast.gradients.reading import Maker, Reading
from fishermask_fast.gradients.rules import read_rule
from fishermask_fast.gradients.terms import Chained, Moved, Product, Term, add_up
from fishermask_fast.network import (
    VIEWS,
    Edge,
    Inputs,
    Trail,
    call,
    count_samples,
    find_again,
    read_graph,
    result_shapes,
    uncached,
)

logger = logging.getLogger(__name__)

# Views that leave all numbers in their order.
_FLAT = frozenset(
    f"{name}Backward{version}"
    for version in "01"
    for name in (
        "Alias", "Clone", "ReshapeAlias", "Squeeze", "ToCopy", "UnsafeView", "Unsqueeze", "View",
    )
)  # fmt: skip
# Operations that take each of a parameter's numbers as it is, though perhaps several times.
_TAKING = VIEWS | {"EmbeddingBackward0", "IndexBackward0", "IndexSelectBackward0"}
_TURNS = ("TBackward0", "TransposeBackward0")
_PRODUCTS = ("AddmmBackward0", "MmBackward0")


@dataclass(frozen=True)
class Way:
    """How a parameter's gradient comes from one operation that consumes it.

    Attributes:
        place: where the samples lie in the operation's result.
        path: kinds of the operations between.
    """

    place: Place
    path: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How each wanted parameter gets its gradient: by rules, or from torch.func.

    Attributes:
        ways: parameter with rules -> one way for each operation that consumes it; none where the
            logits do not depend on it.
        trails: parameter with rules -> how its operations are found in a batch's graph.
        others: names of the parameters without.
        layers: (weight, bias or None) of every linear layer that takes one vector a sample, as a
            head does.
        bytes_per_sample: about what a batch keeps in memory for each sample.
        reorders: whether the model moves values by index, and so perhaps samples.
    """

    ways: dict[str, tuple[Way, ...]]
    trails: dict[str, Trail]
    others: tuple[str, ...]
    layers: tuple[tuple[str, str | None], ...]
    bytes_per_sample: int
    reorders: bool = False


@dataclass(frozen=True)
class Use:
    """One use of a parameter in one batch."""

    edge: int  # which of the tape's
    make: Maker  # from the output gradient to the parameter's term


@dataclass
class Tape:
    """What one forward pass leaves for the backward passes."""

    logits: Tensor  # (N, C)
    edges: list[GradientEdge] = field(repr=False)
    layouts: list[Layout]  # per edge
    names: list[str]  # per edge, the parameters it consumes
    uses: dict[str, tuple[Use, ...]]
    others: tuple[str, ...]  # parameters to be had from torch.func in this batch
    dtype: torch.dtype

    def term(self, name: str, deltas: list[Tensor | None]) -> Term | None:
        """A parameter's gradients for one row; None where the logits do not depend on it."""
        terms = []
        for use in self.uses[name]:
            delta = deltas[use.edge]
            if delta is not None:
                terms.append(use.make(delta.to(self.dtype)))
        return add_up(terms) if terms else None


def forward(model: nn.Module, plan: Plan, inputs: Inputs, dtype: torch.dtype) -> Tape:
    """Runs a batch through the model and reads what the plan's rules need.

    Raises:
        RuntimeError: the batch takes another way through the model than the plan says.
    """
    with uncached():
        logits = call(model, inputs)
    return read_tape(logits, plan, dict(model.named_parameters()), count_samples(inputs), dtype)


def read_tape(
    logits: Tensor, plan: Plan, parameters: Mapping[str, Tensor], n: int, dtype: torch.dtype
) -> Tape:
    """The operations of a batch's graph that the plan names, and what they saved."""
    graph = read_graph(logits)
    places: dict[Node, int] = {}
    tape = Tape(logits, [], [], [], {}, plan.others, dtype)
    late = []
    for name, ways in plan.ways.items():
        found = find_again(graph, parameters[name], plan.trails[name])
        if found is None:
            leaf = graph.leaves.get(id(parameters[name]))
            times = len(graph.users[leaf]) if leaf is not None else 0
            before = sum(below == 0 for below, *_ in plan.trails[name].steps)
            if ways and times != before:
                raise RuntimeError(
                    f"the model's path changes with its input: {name} was used {times} times in "
                    f"this batch and {before} times in the first"
                )
            # Reached by this batch alone, or through other operations, as batches of one often are.
            late.append(name)
            continue
        uses = []
        for (node, argument), way in zip(found, ways, strict=True):
            layout = way.place.resolve(graph, node, n)
            if layout is None:
                # Rows of some samples only would be taken for those of all.
                rows = result_shapes(node)[0]
                met = rows[way.place.axis] if way.place.axis < len(rows) else 0
                raise RuntimeError(
                    f"the model's path changes with its input: {name} met {met} rows in this "
                    f"batch of {n} samples, which does not fit what the first showed"
                )
            if node not in places:
                places[node] = len(places)
                tape.edges.append(GradientEdge(node, 0))
                tape.layouts.append(layout)
                tape.names.append(name)
            else:
                tape.names[places[node]] += f", {name}"
            make = read_use(parameters[name], (node, argument), way, layout, dtype)
            if make is None:
                raise RuntimeError(
                    f"the model's path changes with its input: the rule for {name} holds in the "
                    "first batch and not in this one"
                )
            uses.append(Use(places[node], make))
        tape.uses[name] = tuple(uses)
    if late:
        logger.info("left to torch.func in this batch: %s", ", ".join(late))
    tape.others = (*plan.others, *late)
    return tape


def read_use(
    parameter: Tensor, edge: Edge, way: Way, layout: Layout, dtype: torch.dtype
) -> Maker | None:
    """The way from an operation's output gradient to the parameter's; None where no rule holds.

    Raises:
        RuntimeError: what the operation saved has been overwritten since.
    """
    node, argument = edge
    source, number = node.next_functions[argument]
    assert source is not None
    shape = result_shapes(source)[number] if way.path else tuple(parameter.shape)
    make = read_rule(Reading(node, argument, shape, layout, dtype))
    steps = [kind for kind in way.path if not kind.startswith("ToCopy")]
    if make is None or _FLAT.issuperset(steps):
        return make
    outer = GradientEdge(source, number)
    if len(steps) == 1 and steps[0] in _TURNS and node.name() in _PRODUCTS and len(shape) == 2:
        return partial(_turned, make)
    places = _places(outer, shape, parameter) if _TAKING.issuperset(steps) else None
    if places is not None:
        return lambda delta: Moved(make(delta), places)
    return lambda delta: Chained(make(delta), outer, parameter)


def _turned(make: Maker, delta: Tensor) -> Term:
    term = make(delta)
    return term.turned() if isinstance(term, Product) else term


def _places(outer: GradientEdge, shape: tuple[int, ...], parameter: Tensor) -> Tensor | None:
    """Where each of a parameter's numbers went, of its shape; -1 for nowhere, None for several.

    Positions go back through the graph as gradients do, digit by digit, so that each is exact in
    every dtype.
    """
    result = outer.node._input_metadata[outer.output_nr]
    like = torch.zeros(shape, dtype=result.dtype, device=parameter.device)

    def back(values: Tensor) -> Tensor:
        (found,) = torch.autograd.grad([outer], [parameter], [values], retain_graph=True)
        return found.to_dense()

    times = back(torch.ones_like(like))
    if times.max() > 1:
        return None
    base = int(1 / max(torch.finfo(dtype).eps for dtype in (result.dtype, parameter.dtype)))
    flat = torch.arange(like.numel(), device=like.device).view(shape)
    places, unit = torch.zeros(parameter.shape, dtype=torch.int64, device=like.device), 1
    while unit < like.numel():
        places += back((flat // unit % base).to(like.dtype)).to(torch.int64) * unit
        unit *= base
    return places.masked_fill(times == 0, -1)


def backward(tape: Tape, rows: Tensor) -> Iterator[list[Tensor | None]]:
    """The output gradients of the tape's operations, row by row; None where they have none.

    Args:
        tape: of a forward pass.
        rows: (N, r, C) cotangents at the logits.
    """
    if not tape.edges:
        for _ in range(rows.shape[1]):
            yield []
        return
    cotangents = rows.to(tape.logits.dtype).unbind(1)
    for j, cotangent in enumerate(cotangents):
        yield list(
            torch.autograd.grad(
                tape.logits,
                tape.edges,
                grad_outputs=cotangent,
                retain_graph=j + 1 < len(cotangents),
                allow_unused=True,
            )
        )
