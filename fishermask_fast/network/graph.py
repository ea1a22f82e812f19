"""Which operation consumes each parameter, read from the autograd graph of the logits.

A layer's class does not say how its weight is used; the graph does, whoever wrote the module. A
parameter's consumer is the first operation on its way to the logits whose result belongs to the
samples,

    y = op(..., w, ...),    w = g(theta),

and g, what lies between, is the same for every batch: nothing at all, a view, or arithmetic on
parameters alone, such as weight_norm, a LoRA update merged into a weight or a table of positions.
The two are told apart by trying: what belongs to samples grows with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from fishermask_fast.network.batches import take
from fishermask_fast.network.collating import Inputs, count_samples

# Operations that give back numbers of their input, each at most once, in another shape or dtype.
VIEWS = frozenset(
    f"{name}Backward{version}"
    for version in "01"
    for name in (
        "Alias", "Clone", "Contiguous", "Permute", "ReshapeAlias", "Select", "Slice", "Split",
        "SplitWithSizes", "Squeeze", "T", "ToCopy", "Transpose", "Unbind", "UnsafeSplit",
        "UnsafeView", "Unsqueeze", "View",
    )
)  # fmt: skip

Edge = tuple[Node, int]


@dataclass(frozen=True)
class Graph:
    """The operations between some logits and the parameters that they depend on.

    Attributes:
        nodes: in the order in which a walk down from the logits meets them, which is the same for
            every batch that takes the same path through the model.
        users: node -> what takes its result, as (node, argument), in the order of the walk.
        leaves: id of a parameter -> its place in the graph.
        opaque: names of operations defined in Python, which may use parameters unseen.
    """

    nodes: tuple[Node, ...]
    users: dict[Node, list[Edge]] = field(repr=False)
    leaves: dict[int, Node] = field(repr=False)
    opaque: tuple[str, ...]


@dataclass(frozen=True)
class Trail:
    """The way up from a parameter to its consumers, to be found again in another batch's graph.

    Attributes:
        steps: (number of a node, number of its user, the user's kind, argument); numbers count
            the nodes in the order of the climb, the parameter's being 0.
        stops: numbers of the consumers.
    """

    steps: tuple[tuple[int, int, str, int], ...]
    stops: frozenset[int]


@dataclass(frozen=True)
class Consumer:
    """One operation that consumes a parameter.

    Attributes:
        parameter: the parameter's first name.
        node: the operation, in the graph of the samples that were tried.
        kind: the node's name, such as "AddmmBackward0".
        argument: which of the node's arguments (of its `next_functions`) the parameter is.
        path: kinds of the operations between, the parameter's users first; empty for none.
    """

    parameter: str
    node: Node = field(repr=False)
    kind: str
    argument: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class Consumers:
    """Who consumes which parameters of a model.

    Attributes:
        uses: parameter -> its consumers; none where it has no way to the logits.
        trails: parameter -> how they were found.
        unknown: parameters of which the graph does not tell: the model's path changed with the
            number of samples, or a Python operation may use them unseen.
    """

    uses: dict[str, tuple[Consumer, ...]]
    trails: dict[str, Trail] = field(repr=False)
    unknown: frozenset[str] = frozenset()


def read_graph(logits: Tensor) -> Graph:
    """Walks down from logits (N, C) to the parameters that ask for gradients."""
    root = logits.grad_fn
    users: dict[Node, list[Edge]] = {}
    leaves: dict[int, Node] = {}
    opaque: list[str] = []
    order: dict[Node, None] = {}
    stack = [] if root is None else [root]
    while stack:
        node = stack.pop()
        if node in order:
            continue
        order[node] = None
        if isinstance(node, BackwardCFunction):
            opaque.append(node.name())
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = node
        for argument, (source, _) in enumerate(node.next_functions):
            if source is not None:
                users.setdefault(source, []).append((node, argument))
                stack.append(source)
    return Graph(tuple(order), users, leaves, tuple(opaque))


def result_shapes(node: Node) -> tuple[tuple[int, ...], ...]:
    """Shapes of what an operation gave, one for each of its results."""
    return tuple(tuple(result.shape) for result in node._input_metadata)


def climb(
    graph: Graph, leaf: Node, stops: Callable[[int, Node], bool]
) -> tuple[Trail, tuple[Edge, ...], tuple[Node, ...]]:
    """Goes up from a parameter until the operations that consume it.

    Args:
        graph: what to climb in.
        leaf: the parameter's node.
        stops: (number of a node in the order of the climb, node) -> whether it is a consumer.

    Returns:
        The way, the consumers as (node, argument), and the nodes between.
    """
    numbers, queue = {leaf: 0}, [leaf]
    steps, ends = [], set()
    uses: dict[Edge, None] = {}
    for node in queue:
        for user, argument in graph.users.get(node, ()):
            new = user not in numbers
            number = numbers.setdefault(user, len(numbers))
            steps.append((numbers[node], number, user.name(), argument))
            if stops(number, user):
                uses[user, argument] = None
                ends.add(number)
            elif new:
                queue.append(user)
    return Trail(tuple(steps), frozenset(ends)), tuple(uses), tuple(queue[1:])


def find_again(graph: Graph, parameter: Tensor, trail: Trail) -> tuple[Edge, ...] | None:
    """The consumers of a parameter in another batch's graph, as (node, argument).

    Returns:
        None where the way to them is another than `trail`.
    """
    leaf = graph.leaves.get(id(parameter))
    if leaf is None:
        return None if trail.steps else ()
    found, uses, _ = climb(graph, leaf, lambda number, node: number in trail.stops)
    return uses if found == trail else None


@contextmanager
def uncached() -> Iterator[None]:
    """Shows every use of a parameter, which shared casts of autocast would hide."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)


@contextmanager
def asking(parameters: Collection[Tensor]) -> Iterator[None]:
    """Lets parameters ask for gradients, and shows every use of each of them."""
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with uncached():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def trial_samples(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """Two samples of a batch, and three: the same two and the first again."""
    second = min(1, count_samples(inputs) - 1)
    pair, three = ([0, second], [0, second, 0])
    return take(inputs, torch.tensor(pair)), take(inputs, torch.tensor(three))


def match_consumers(few: Graph, more: Graph, wanted: Mapping[str, Tensor]) -> Consumers:
    """The consumers of parameters, from the graphs of a few samples and of more."""
    kinds, others = ([node.name() for node in graph.nodes] for graph in (few, more))
    if kinds != others:
        return Consumers(dict.fromkeys(wanted, ()), {}, frozenset(wanted))
    grown = {
        node
        for node, larger in zip(few.nodes, more.nodes, strict=True)
        if result_shapes(node) != result_shapes(larger)
    }
    uses: dict[str, tuple[Consumer, ...]] = {}
    trails, unknown = {}, set()
    for name, parameter in wanted.items():
        leaf = few.leaves.get(id(parameter))
        if leaf is None:
            uses[name], trails[name] = (), Trail((), frozenset())
            if few.opaque:
                unknown.add(name)
            continue
        trails[name], found, between = climb(few, leaf, lambda number, node: node in grown)
        uses[name] = tuple(
            Consumer(name, node, node.name(), argument, _path((node, argument), between))
            for node, argument in found
        )
        if not found:
            # The logits themselves do not grow: whose numbers they are cannot be told.
            unknown.add(name)
    return Consumers(uses, trails, frozenset(unknown))


def _path(edge: Edge, between: tuple[Node, ...]) -> tuple[str, ...]:
    """Kinds of those nodes between parameter and consumer that lead to this argument of it."""
    node, argument = edge
    below: set[Node | None] = set()
    stack = [node.next_functions[argument][0]]
    while stack:
        source = stack.pop()
        if source is not None and source not in below:
            below.add(source)
            stack.extend(further for further, _ in source.next_functions)
    return tuple(found.name() for found in between if found in below)
