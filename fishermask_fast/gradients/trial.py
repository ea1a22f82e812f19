"""Which parameters go by rule and which by torch.func, found out by trying.

Two samples of the pool go through the model together, and each of them alone. A parameter goes by
rule if, for every operation that consumes it, the samples' places in the result are told, no
sample's loss has a gradient at the other's, and the rule's rows of both samples equal plain
autograd's for the sample alone,

    V_x[j] = d (c^T f(x; theta)) / d theta,

at the positions that are compared. In a deep network two roundings of one sample can lie far apart,
since other kernels serve a batch of one. So where rows alone are too far, those of a batch of the
same shape are asked, in which the other sample's place is taken: they are equal to rounding, unless
the rule is wrong or samples meet. Everything else is left to torch.func, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from fishermask_fast.gradients.capture import Plan, Tape, Way, read_tape, read_use
from fishermask_fast.gradients.compared import Known, known, known_by_rule, linear, stand_ins
from fishermask_fast.gradients.places import Place, find_place
from fishermask_fast.gradients.tracing import Alone, Traced
from fishermask_fast.network import (
    Consumer,
    Consumers,
    call,
    compute_dtype,
    same_inputs,
    take,
)

logger = logging.getLogger(__name__)

# What rounding may do to the gradients of a sample alone (measured: up to 0.02 of the largest in
# deep networks of random weights). Whatever counts the samples changes them by more.
_ROUNDED = 0.2
# Numbers of a parameter below which its whole gradient costs nothing.
_SMALL = 4096


@dataclass(frozen=True)
class _Plain:
    """The gradients of both samples that the rules must give."""

    gradients: dict[str, list[Known]]
    logits_apart: float  # largest difference from those of the batch of both

    @cached_property
    def largest(self) -> float:
        return max(one.largest for each in self.gradients.values() for one in each)


class Trial:
    """Two samples together and alone, to see which rules hold."""

    def __init__(
        self,
        model: nn.Module,
        traced: Traced,
        found: Consumers,
        wanted: dict[str, nn.Parameter],
    ) -> None:
        self.model, self.traced, self.found, self.wanted = model, traced, found, wanted
        self.inputs, self.logits = traced.inputs, traced.logits
        self.graph, self.larger = traced.graph, traced.larger
        self.counterpart = dict(zip(self.graph.nodes, self.larger.nodes, strict=False))
        self.dtype = compute_dtype(wanted)
        self.held = 0
        # Unequal weights, since a constant one may vanish behind a softmax.
        weights = torch.linspace(0.5, 1.5, self.logits.shape[1], dtype=torch.float64)
        # And others for the other sample, lest rows in each other's places look right.
        self.weights = torch.stack([weights, 1.5 * weights.flip(0)]).to(self.logits)
        self._eps = torch.finfo(self._coarsest()).eps

    def ways(self) -> dict[str, tuple[Way, ...]]:
        """The parameters whose rules hold, and how each gets its gradient."""
        nodes = list(dict.fromkeys(use.node for uses in self.found.uses.values() for use in uses))
        deltas = self._single_gradients(nodes)
        places = {
            node: find_place((self.graph, node), (self.larger, self.counterpart[node]), single)
            for node, single in deltas.items()
        }
        ways = {}
        for name, uses in self.found.uses.items():
            if name in self.found.unknown:
                continue
            tried = [self._way(use, places.get(use.node)) for use in uses]
            if all(way is not None for way in tried):
                ways[name] = tuple(way for way in tried if way is not None)
        return self._proven(ways, deltas)

    def _single_gradients(self, nodes: list[Node]) -> dict[Node, list[Tensor | None]]:
        """Each operation's output gradients for a loss of sample 0 alone, then of sample 1."""
        found: dict[Node, list[Tensor | None]] = {node: [] for node in nodes}
        if not nodes:
            return found
        for sample in range(2):
            cotangent = torch.zeros_like(self.logits)
            cotangent[sample] = self.weights[sample]
            deltas = torch.autograd.grad(
                self.logits,
                [GradientEdge(node, 0) for node in nodes],
                grad_outputs=cotangent,
                retain_graph=True,
                allow_unused=True,
            )
            for node, delta in zip(nodes, deltas, strict=True):
                found[node].append(delta)
                self.held += 0 if delta is None else delta.nbytes
        return found

    def _way(self, use: Consumer, place: Place | None) -> Way | None:
        layout = None if place is None else place.resolve(self.graph, use.node, 2)
        if place is None or layout is None:
            return None
        way = Way(place, use.path)
        edge = use.node, use.argument
        try:
            make = read_use(self.wanted[use.parameter], edge, way, layout, self.dtype)
        except RuntimeError as error:  # overwritten since: not the operation's input any more
            logger.info("no rule for %s: %s", use.parameter, error)
            return None
        return None if make is None else way

    def _proven(
        self, ways: dict[str, tuple[Way, ...]], deltas: dict[Node, list[Tensor | None]]
    ) -> dict[str, tuple[Way, ...]]:
        """Those whose rows equal plain autograd's."""
        reached = [name for name, each in ways.items() if each]
        if not reached:
            return ways
        tape = self._tape(self.logits, ways, self.wanted, 2)
        both = [_sum(deltas[edge.node]) for edge in tape.edges]
        factors = frozenset(
            name
            for name in reached
            if self.wanted[name].numel() >= _SMALL and linear(self.found.uses[name])
        )
        spared = frozenset(stand_ins(ways, self.found.uses, self.wanted))
        off = self._off(tape, both, ways, (factors, spared))
        if off and factors:
            off = self._off(tape, both, ways, (frozenset(), frozenset()))
        for name, error in off.items():
            logger.warning(
                "the rule for %s differs from autograd by %.1e; it goes the slow way", name, error
            )
            del ways[name]
        return ways

    def _tape(
        self, logits: Tensor, ways: dict[str, tuple[Way, ...]], leaves: Mapping[str, Tensor], n: int
    ) -> Tape:
        trails = {name: self.found.trails[name] for name in ways}
        return read_tape(logits, Plan(ways, trails, (), (), 0), leaves, n, self.dtype)

    def _off(
        self,
        tape: Tape,
        both: list[Tensor | None],
        ways: dict[str, tuple[Way, ...]],
        by_rule: tuple[frozenset[str], frozenset[str]],
    ) -> dict[str, float]:
        """Those whose rows differ from what they must be, and by how much.

        Args:
            tape: of both samples.
            both: its deltas.
            ways: of all parameters that are tried.
            by_rule: of each sample, whose rows are compared with the rule's own alone.
        """
        names = [name for name, each in ways.items() if each]
        alone = self._alone(ways, names, by_rule) or self._of_batch(names)
        errors = self._errors(tape, names, both, alone)
        off = [name for name in names if not errors[name] <= self._bound(name, alone)]
        near = [name for name in off if errors[name] <= self._bound(name, alone, _ROUNDED)]
        if near and alone.logits_apart <= _ROUNDED * self._largest_logit():
            rounded = set(near) - self._changed_by_the_other(tape, near, both)
            off = [name for name in off if name not in rounded]
        return {name: errors[name] for name in off}

    def _alone(
        self,
        ways: dict[str, tuple[Way, ...]],
        names: list[str],
        by_rule: tuple[frozenset[str], frozenset[str]],
    ) -> _Plain | None:
        """The gradients of each sample alone; None where the model takes no batch of one."""
        if not self.traced.alone:
            return None
        found: dict[str, list[Known]] = {name: [] for name in names}
        apart = 0.0
        for sample, (alone, some) in enumerate(zip(self.traced.alone, by_rule, strict=True)):
            tape = self._tape_alone(alone, {n: ways[n] for n in names if n in some})
            rest = [name for name in names if name not in tape.uses]
            asked: list[Any] = [*tape.edges, *(alone.leaves[name] for name in rest)]
            gradients: list[Tensor | None] = list(
                torch.autograd.grad(
                    alone.logits,
                    asked,
                    grad_outputs=self.weights[sample, None],
                    retain_graph=True,
                    allow_unused=True,
                )
            )
            deltas, plain = gradients[: len(tape.edges)], gradients[len(tape.edges) :]
            for name, gradient in zip(rest, plain, strict=True):
                found[name].append(self._known(name, gradient))
            for name in tape.uses:
                at_hand = known_by_rule(tape.term(name, deltas), self.wanted[name])
                found[name].append(at_hand or self._known_alone(sample, name))
            distance = (alone.logits[0] - self.logits[sample]).detach().abs().max()
            apart = max(apart, float(distance))
        return _Plain(found, apart)

    def _tape_alone(self, alone: Alone, ways: dict[str, tuple[Way, ...]]) -> Tape:
        """Without those that a sample alone reaches on another path."""
        try:
            return self._tape(alone.logits, ways, alone.leaves, 1)
        except RuntimeError as error:
            logger.info("a sample alone takes another path: %s", error)
            return self._tape(alone.logits, {}, alone.leaves, 1)

    def _known_alone(self, sample: int, name: str) -> Known:
        alone = self.traced.alone[sample]
        (gradient,) = torch.autograd.grad(
            alone.logits,
            [alone.leaves[name]],
            grad_outputs=self.weights[sample, None],
            retain_graph=True,
            allow_unused=True,
        )
        return self._known(name, gradient)

    def _known(self, name: str, gradient: Tensor | None) -> Known:
        p = self.wanted[name]
        return known(torch.zeros_like(p) if gradient is None else gradient.to_dense(), self.dtype)

    def _changed_by_the_other(
        self, tape: Tape, names: list[str], deltas: list[Tensor | None]
    ) -> set[str]:
        """Those whose rows are others once the sample stands in the other's place, and in its own.

        The kernels are the same as in the batch of both, and so is their rounding.
        """
        if same_inputs(*(take(self.inputs, torch.tensor([i])) for i in range(2))):
            return set(names)  # there is no other
        twice = self._plain([[0, 0], [1, 1]], names)
        if twice is None or not twice.logits_apart <= self._eps**0.5 * self._largest_logit():
            return set(names)
        errors = self._errors(tape, names, deltas, twice)
        return {name for name in names if not errors[name] <= self._bound(name, twice)}

    def _errors(
        self,
        tape: Tape,
        names: list[str],
        deltas: list[Tensor | None],
        plain: _Plain,
    ) -> dict[str, float]:
        """The largest differences of the rules' rows from those known, at some positions."""
        found = {}
        for name in names:
            try:
                term = tape.term(name, deltas)
                right = plain.gradients[name]
                index = torch.cat([one.index for one in right])
                rows = None if term is None else term.masked(index)
            except (
                RuntimeError,
                NotImplementedError,
            ) as error:  # vmap has no rule for it
                logger.info("no rule for %s: %s", name, error)
                found[name] = float("inf")
                continue
            first = len(right[0].index)
            parts = (None, None) if rows is None else (rows[0, :first], rows[1, first:])
            found[name] = max(one.error(part) for one, part in zip(right, parts, strict=True))
        return found

    def _bound(self, name: str, plain: _Plain, relative: float | None = None) -> float:
        size = max(one.largest for one in plain.gradients[name])
        # Gradients that are zero but for rounding are small beside the others'.
        relative = self._eps**0.5 if relative is None else relative
        return relative * size + 10 * self._eps * plain.largest

    def _plain(self, batches: list[list[int]], names: list[str]) -> _Plain | None:
        """Plain autograd's gradients of sample 0 in the first batch and of sample 1 in the second.

        Each is read where the other stood, if it is there twice.

        Returns:
            None where the model takes no such batch.
        """
        found: dict[str, list[Known]] = {name: [] for name in names}
        apart = 0.0
        for sample, batch in enumerate(batches):
            try:
                logits = call(self.model, take(self.inputs, torch.tensor(batch)))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                logger.info("the model takes no batch of %d: %s", len(batch), error)
                return None
            place = (1 - sample) % len(batch)
            cotangent = torch.zeros_like(logits)
            cotangent[place] = self.weights[sample]
            self._note(found, logits, cotangent)
            apart = max(apart, float((logits[place] - self.logits[sample]).detach().abs().max()))
        return _Plain(found, apart)

    def _largest_logit(self) -> float:
        return float(self.logits.detach().abs().max())

    def _of_batch(self, names: list[str]) -> _Plain:
        """The same from the batch of both samples."""
        found: dict[str, list[Known]] = {name: [] for name in names}
        for sample in range(2):
            cotangent = torch.zeros_like(self.logits)
            cotangent[sample] = self.weights[sample]
            self._note(found, self.logits, cotangent)
        return _Plain(found, 0.0)

    def _note(self, found: dict[str, list[Known]], logits: Tensor, cotangent: Tensor) -> None:
        chosen = [self.wanted[name] for name in found]
        gradients = torch.autograd.grad(
            logits, chosen, grad_outputs=cotangent, retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(found, gradients, strict=True):
            found[name].append(self._known(name, gradient))

    def _coarsest(self) -> torch.dtype:
        """The least exact dtype that numbers of the network have."""
        used = {self.logits.dtype, *(p.dtype for p in self.wanted.values())}
        used |= {result.dtype for node in self.graph.nodes for result in node._input_metadata}
        return max((d for d in used if d.is_floating_point), key=lambda d: torch.finfo(d).eps)


def _sum(deltas: list[Tensor | None]) -> Tensor | None:
    first, second = deltas
    return second if first is None else first if second is None else first + second
