"""Which parameters go by rule and which by torch.func, by a trial of two samples; see trial.py."""

from __future__ import annotations

import logging
from collections.abc import Collection

from torch import nn

from fishermask_fast.gradients.capture import Plan, Way
from fishermask_fast.gradients.places import Place
from fishermask_fast.gradients.reading import SAVED
from fishermask_fast.gradients.tracing import Traced
from fishermask_fast.gradients.trial import Trial
from fishermask_fast.network import (
    Consumers,
    Graph,
    asking,
    match_consumers,
    result_shapes,
)

logger = logging.getLogger(__name__)

_BY_INDEX = ("Index", "Gather", "Scatter", "MaskedSelect", "MaskedScatter", "Take")


def plan_from(traced: Traced, model: nn.Module, names: Collection[str]) -> Plan:
    """Finds out how each of the named parameters can get its per-sample gradient.

    Afterwards those with rules ask for gradients, so that the graph begins at them.

    Args:
        traced: samples on their way through the model.
        model: as `evaluation.evaluating` gives it.
        names: the parameters that are wanted, and were when the samples went through.

    Raises:
        ValueError: the logits do not depend on any of them by autograd.
    """
    parameters = dict(model.named_parameters())
    wanted = {name: parameters[name] for name in names}
    with asking(wanted.values()):
        if not traced.logits.requires_grad:
            raise ValueError(
                "the model's logits carry no gradient to the parameters wanted; is its output "
                "detached, or computed under no_grad?"
            )
        found = match_consumers(traced.graph, traced.larger, wanted)
        trial = Trial(model, traced, found, wanted)
        ways = trial.ways()
        plan = Plan(
            ways,
            {name: found.trails[name] for name in ways},
            tuple(name for name in names if name not in ways),
            _layers(ways, found, wanted),
            traced.bytes_per_sample + 3 * trial.held // 4,
            _reorders(traced.graph, traced.larger, found),
        )
    if plan.others:
        logger.info("parameters without a rule, left to torch.func: %s", ", ".join(plan.others))
    for name in plan.ways:
        parameters[name].requires_grad_(True)
    return plan


def _layers(
    ways: dict[str, tuple[Way, ...]], found: Consumers, wanted: dict[str, nn.Parameter]
) -> tuple[tuple[str, str | None], ...]:
    """(weight, bias or None) of each linear layer used once, on one vector a sample."""
    layers = []
    for name, each in ways.items():
        if len(each) != 1 or each[0] != Way(Place(0), ("TBackward0",)):
            continue
        (use,) = found.uses[name]
        kinds = {"AddmmBackward0": 2, "MmBackward0": 1}
        if kinds.get(use.kind) != use.argument:
            continue
        bias = None
        if use.kind == "AddmmBackward0":
            if (use.node._saved_alpha, use.node._saved_beta) != (1, 1):  # type: ignore[attr-defined]
                continue
            source = use.node.next_functions[0][0]
            at = [n for n, uses in found.uses.items() if uses and uses[0].node is use.node]
            bias = next(
                (
                    n
                    for n in at
                    if ways.get(n) == (Way(Place(0), ()),)
                    and source is not None
                    and getattr(source, "variable", None) is wanted[n]
                    and wanted[n].ndim == 1
                ),
                None,
            )
        layers.append((name, bias))
    return tuple(layers)


def _reorders(graph: Graph, larger: Graph, found: Consumers) -> bool:
    """Whether the model moves values by index; looking up a parameter moves no sample."""
    consuming = {use.node for uses in found.uses.values() for use in uses}
    return any(
        node.name().startswith(_BY_INDEX)
        and result_shapes(node) != result_shapes(counterpart)
        and not (node in consuming and node.name() in SAVED)
        for node, counterpart in zip(graph.nodes, larger.nodes, strict=False)
    )
