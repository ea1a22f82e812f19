"""One forward and r backward passes of a batch, watched at the layers whose weights are wanted.

Samples do not interact, so a backward pass with row j of L_x^T for every sample at once gives the
output gradient of every layer and sample,

    delta_l[n] = (d z[n] / d y_l[n])^T L_n[:, j],

and with the layer's input that is all a rule of `layers` needs: no weight gradient is taken. The
graph begins at the earliest layer watched, so the passes go no further down.

A plan says which parameters can be had so. It is made by trying: a layer qualifies if, on a few
samples, it is called exactly once, its parameters reach the logits through that call alone, and
its output gradient for one sample touches no other sample. Afterwards these layers' parameters ask
for gradients, so that the graph begins at them, but none is ever computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge, saved_tensors_hooks

from fishermask_fast.gradients.rules import LayerRule, rule_for
from fishermask_fast.network import Inputs, call, count_samples, take

_BY_INDEX = ("Index", "Gather", "Scatter", "MaskedSelect", "MaskedScatter", "Take")


@dataclass(frozen=True)
class Site:
    """A layer whose parameters get their gradients by rule.

    Attributes:
        module: the layer.
        rules: full parameter name -> its rule.
        axis: the dimension of input and output along which samples lie.
        inner: what else lies along it, sample by sample (1 almost always).
        vectors: whether the layer takes one vector a sample, as a head does.
        keep_input: whether a rule needs the layer's input.
    """

    module: nn.Module
    rules: dict[str, LayerRule]
    axis: int
    inner: int
    vectors: bool
    keep_input: bool

    def arrange(self, tensor: Tensor) -> Tensor:
        """The same values with samples alone along the first dimension."""
        tensor = tensor.movedim(self.axis, 0)
        if self.inner == 1:
            return tensor
        return tensor.reshape(-1, self.inner, *tensor.shape[1:])


@dataclass(frozen=True)
class Plan:
    """How each wanted parameter gets its gradient: at a site, or from torch.func.

    Attributes:
        sites: the layers with rules.
        others: names of the parameters without.
        bytes_per_sample: about what a batch keeps in memory for each sample.
        reorders: whether the model moves values by index, and so perhaps samples.
    """

    sites: tuple[Site, ...]
    others: tuple[str, ...]
    bytes_per_sample: int
    reorders: bool = False


@dataclass
class Tape:
    """What one forward pass leaves for the backward passes."""

    logits: Tensor  # (N, C)
    inputs: list[Tensor | None]  # per site, samples first
    edges: list[GradientEdge | None] = field(repr=False)


@dataclass
class _Call:
    """One call of a watched layer."""

    input: Tensor | None
    version: int
    output: Tensor
    edge: GradientEdge | None


class _Watch:
    """Forward hooks on some modules, which note each call until removed."""

    def __init__(self, modules: Collection[nn.Module], keep: dict[nn.Module, bool]) -> None:
        self.calls: dict[nn.Module, list[_Call | None]] = {module: [] for module in modules}
        self.keep = keep
        self.handles = [
            # First of all hooks, so that others' changes to the output belong to what follows.
            module.register_forward_hook(self._note, with_kwargs=True, prepend=True)
            for module in modules
        ]

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> object:
        given = args[0] if args else kwargs.get("input")
        usable = isinstance(given, Tensor) and isinstance(output, Tensor)
        if not usable or not torch.is_grad_enabled():
            self.calls[module].append(None)
            return None
        assert isinstance(given, Tensor) and isinstance(output, Tensor)
        if output._is_view():
            # A change in place would reroute a view's history past the edge noted below.
            output = output.clone()
        kept = given.detach() if self.keep.get(module, True) else None
        edge = get_gradient_edge(output) if output.requires_grad else None
        self.calls[module].append(_Call(kept, given._version, output, edge))
        return output


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
        return tensor

    def total(self) -> int:
        return sum(self.sizes.values())


def forward(model: nn.Module, plan: Plan, inputs: Inputs) -> Tape:
    """Runs a batch through the model, noting what the plan's sites need."""
    keep = {site.module: site.keep_input for site in plan.sites}
    with _Watch([site.module for site in plan.sites], keep) as watch:
        logits = call(model, inputs)
    layer_inputs: list[Tensor | None] = []
    edges: list[GradientEdge | None] = []
    n = count_samples(inputs)
    for site in plan.sites:
        calls = watch.calls[site.module]
        if len(calls) != 1 or calls[0] is None:
            raise RuntimeError(
                f"the model's path changes with its input: {', '.join(site.rules)} was used "
                f"{len(calls)} times in this batch and once in the first"
            )
        reached = calls[0].output.shape[site.axis]
        if reached != n * site.inner:
            # Rows of some samples only would be taken for those of all.
            raise RuntimeError(
                f"the model's path changes with its input: {', '.join(site.rules)} met "
                f"{reached} rows in this batch of {n} samples, and {site.inner} a sample in the "
                "first"
            )
        given = calls[0].input if site.keep_input else None
        layer_inputs.append(None if given is None else site.arrange(given))
        edges.append(calls[0].edge)
    return Tape(logits, layer_inputs, edges)


def backward(tape: Tape, plan: Plan, rows: Tensor) -> Iterator[list[Tensor | None]]:
    """The output gradients at every site, row by row; None where the logits do not depend on it.

    Args:
        tape: of a forward pass.
        plan: the same as for the forward pass.
        rows: (N, r, C) cotangents at the logits.
    """
    edges = [edge for edge in tape.edges if edge is not None]
    if not edges:
        for _ in range(rows.shape[1]):
            yield [None] * len(plan.sites)
        return
    cotangents = rows.to(tape.logits.dtype).unbind(1)
    for j, cotangent in enumerate(cotangents):
        deltas = torch.autograd.grad(
            tape.logits,
            edges,
            grad_outputs=cotangent,
            retain_graph=j + 1 < len(cotangents),
            allow_unused=True,
        )
        found = iter(deltas)
        reached = [None if edge is None else next(found) for edge in tape.edges]
        yield [
            None if delta is None else site.arrange(delta)
            for site, delta in zip(plan.sites, reached, strict=True)
        ]


def make_plan(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Plan:
    """Finds out how each of the named parameters can get its per-sample gradient.

    Args:
        model: as `evaluation.evaluating` gives it.
        inputs: a batch, of which at most three samples are tried.
        names: the parameters that are wanted.

    Raises:
        ValueError: the logits do not depend on any of them by autograd.
    """
    owners = _owners(model, names)
    modules = list(dict.fromkeys(module for module, _ in owners.values()))
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names]
    n = count_samples(inputs)
    two = take(inputs, torch.tensor([0, min(1, n - 1)]))
    three = take(inputs, torch.tensor([0, min(1, n - 1), min(2, n - 1)]))
    for parameter in wanted:
        parameter.requires_grad_(True)
    # Shared casts of autocast would hide a second use of a weight.
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        saved = _SavedBytes(parameters.values())
        with _Watch(modules, {}) as watch_two, saved:
            logits = call(model, two)
        with _Watch(modules, {}) as watch_three:
            call(model, three)
        if not logits.requires_grad:
            raise ValueError(
                "the model's logits carry no gradient to the parameters wanted; is its output "
                "detached, or computed under no_grad?"
            )
        uses, reorders = _read_graph(logits)
        deltas = _one_sample_gradients(logits, modules, watch_two)
    finally:
        torch.set_autocast_cache_enabled(cached)
        for parameter in wanted:
            parameter.requires_grad_(False)

    sites = []
    for module in modules:
        # A parameter outside the graph is right with no output gradient at all, and only then.
        expected = {1} if deltas.get(module) else {0, 1}
        rules = {
            name: rule
            for name, (owner, rule) in owners.items()
            if owner is module and uses[id(parameters[name])] in expected
        }
        small, large = watch_two.calls[module], watch_three.calls[module]
        if not rules or len(small) != 1 or small[0] is None or large[0] is None:
            continue
        found = _samples_axis(small[0], large[0], all(r.flexible for r in rules.values()))
        if found is None or not _separate(deltas.get(module, []), *found):
            continue
        assert small[0].input is not None
        keep_input = any(rule.needs_input for rule in rules.values())
        if keep_input and small[0].input._version != small[0].version:
            continue  # overwritten later, so that it is not the layer's input any more
        sites.append(
            Site(
                module,
                rules,
                *found,
                vectors=found == (0, 1) and small[0].input.ndim == 2,
                keep_input=keep_input,
            )
        )
    ruled = {name for site in sites for name in site.rules}
    for name in ruled:
        parameters[name].requires_grad_(True)
    others = tuple(name for name in names if name not in ruled)
    held = saved.total() + sum(
        made.output.nbytes * 2 + (0 if made.input is None else made.input.nbytes)
        for site in sites
        if (made := watch_two.calls[site.module][0]) is not None
    )
    return Plan(tuple(sites), others, held // 2, reorders)


def _owners(model: nn.Module, names: Collection[str]) -> dict[str, tuple[nn.Module, LayerRule]]:
    """For each parameter that has one name, one owner and a rule: owner and rule."""
    spellings = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    parameters = dict(model.named_parameters())
    owners = {}
    for name in names:
        path, _, local = name.rpartition(".")
        module = model.get_submodule(path)
        rule = rule_for(module, local)
        if rule is not None and spellings[id(parameters[name])] == 1:
            owners[name] = (module, rule)
    return owners


def _read_graph(logits: Tensor) -> tuple[Counter[int], bool]:
    """How many edges of the graph lead to each parameter, by id; whether values move by index."""
    uses: Counter[int] = Counter()
    reorders = False
    seen: set[Node] = set()
    stack = [logits.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Looking up a parameter, as relative positions do, moves no sample.
        source = node.next_functions[0][0] if node.next_functions else None
        if node.name().startswith(_BY_INDEX) and not hasattr(source, "variable"):
            reorders = True
        for following, _ in node.next_functions:
            if following is None:
                continue
            variable = getattr(following, "variable", None)
            if variable is not None:
                uses[id(variable)] += 1
            stack.append(following)
    return uses, reorders


def _one_sample_gradients(
    logits: Tensor, modules: list[nn.Module], watch: _Watch
) -> dict[nn.Module, list[Tensor]]:
    """Each module's output gradients for a loss of sample 0 alone, then of sample 1 alone."""
    edges = {
        module: calls[0].edge
        for module in modules
        if len(calls := watch.calls[module]) == 1 and calls[0] is not None and calls[0].edge
    }
    found: dict[nn.Module, list[Tensor]] = {module: [] for module in edges}
    if not edges:
        return found
    # Unequal weights, since a constant one may vanish behind a softmax.
    weights = torch.linspace(0.5, 1.5, logits.shape[1], dtype=torch.float64).to(logits)
    for sample in range(2):
        cotangent = torch.zeros_like(logits)
        cotangent[sample] = weights
        deltas = torch.autograd.grad(
            logits,
            list(edges.values()),
            grad_outputs=cotangent,
            retain_graph=sample == 0,
            allow_unused=True,
        )
        for module, delta in zip(edges, deltas, strict=True):
            if delta is not None:
                found[module].append(delta)
    return found


def _samples_axis(small: _Call, large: _Call, flexible: bool) -> tuple[int, int] | None:
    """(axis, inner) of the one dimension that grows from two samples to three, in and out."""
    assert small.input is not None and large.input is not None
    found = set()
    for a, b in ((small.input, large.input), (small.output, large.output)):
        if a.ndim != b.ndim:
            return None
        grown = [d for d in range(a.ndim) if a.shape[d] != b.shape[d]]
        if len(grown) != 1:
            return None
        axis = grown[0]
        inner, rest = divmod(a.shape[axis], 2)
        if rest or b.shape[axis] != 3 * inner:
            return None
        found.add((axis, inner))
    if len(found) != 1:
        return None
    place = found.pop()
    return place if flexible or place == (0, 1) else None


def _separate(deltas: list[Tensor], axis: int, inner: int) -> bool:
    """Whether a loss of one sample has no gradient at the other's places."""
    for sample, delta in enumerate(deltas):
        if delta.narrow(axis, (1 - sample) * inner, inner).count_nonzero():
            return False
        # Of several places a sample, one without a gradient may be another's as well.
        own = delta.narrow(axis, sample * inner, inner).movedim(axis, 0).flatten(1)
        if inner > 1 and not own.count_nonzero(1).all():
            return False
    return True
