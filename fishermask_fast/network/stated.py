"""What a model says of its own likelihood: a configuration, the loss or the metrics it holds.

None of this has a part in the gradients; it is only ever compared with the likelihood that was
asked for, since a multi-label model's outputs look like logits of one class. A loss that stands in
the training loop and not in the model cannot be seen from here.
"""

from __future__ import annotations

import warnings

from torch import nn

from fishermask_fast.checks import caller_level

LIKELIHOOD_OF_PROBLEM = {
    "single_label_classification": "categorical",
    "multi_label_classification": "bernoulli",
    "regression": "gaussian",
}
_LOSSES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "categorical",
    nn.NLLLoss: "categorical",
    nn.BCEWithLogitsLoss: "bernoulli",
    nn.MultiLabelSoftMarginLoss: "bernoulli",
    nn.MultiLabelMarginLoss: "bernoulli",
    nn.MSELoss: "gaussian",
}


def stated_likelihoods(model: nn.Module) -> dict[str, str]:
    """Likelihoods that a model's parts speak of: name -> what speaks of it, in words.

    A Hugging Face configuration's `problem_type`, which says it outright, stands for all others.
    """
    problem = problem_type(model)
    if problem is not None:
        return {LIKELIHOOD_OF_PROBLEM[problem]: f"its configuration's problem_type is {problem!r}"}
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        likelihood = next((how for loss, how in _LOSSES.items() if isinstance(module, loss)), None)
        # torchmetrics' classes for several labels a sample all begin so.
        kind = type(module)
        if kind.__module__.startswith("torchmetrics.") and kind.__name__.startswith("Multilabel"):
            likelihood = "bernoulli"
        if likelihood is not None:
            found.setdefault(likelihood, f"it holds a {kind.__name__} ({name})")
    return found


def problem_type(model: nn.Module) -> str | None:
    """A Hugging Face configuration's `problem_type` where the model or a part of it has one."""
    stated = {
        getattr(getattr(module, "config", None), "problem_type", None) for module in model.modules()
    } & LIKELIHOOD_OF_PROBLEM.keys()
    return stated.pop() if len(stated) == 1 else None


def warn_where_another_is_stated(model: nn.Module, likelihood: str) -> None:
    """Warns where a model speaks of other likelihoods than the one asked for, and not of it.

    Args:
        model: as its user gave it.
        likelihood: a name; others, of users' own functions, are theirs to know.
    """
    stated = stated_likelihoods(model)
    if not stated or likelihood in stated or likelihood not in LIKELIHOOD_OF_PROBLEM.values():
        return
    other, why = next(iter(stated.items()))
    warnings.warn(
        f"the model's outputs are taken for {likelihood} ones, but {why}: give "
        f'likelihood="{other}" if that is what it was trained for',
        UserWarning,
        stacklevel=caller_level(),
    )
