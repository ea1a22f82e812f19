"""Queries for Hugging Face models and tokenised datasets, FisherMask's or BAIT's.

The model's `.logits` and its parameters' gradients V_x are read as for any other network (see
selector.py); what is particular is the data: items are dicts of lists of unequal lengths, with
columns that the model does not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from fishermask_fast.checks import check_flag, check_integer
from fishermask_fast.factors import GradientFactors, StoredFactors
from fishermask_fast.likelihoods import LikelihoodLike
from fishermask_fast.network import LIKELIHOOD_OF_PROBLEM, problem_type
from fishermask_fast.selection import Selection
from fishermask_fast.selector import FisherMaskSelector, split_options

_LABELS = ("label", "labels", "label_ids")


def query(
    model: nn.Module,
    unlabeled: Any,
    n_select: int,
    labeled: Any = None,
    *,
    tokenizer: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    likelihood: LikelihoodLike | None = None,
    batch_size: int = 16,
    progress: bool = False,
    **options: Any,
) -> Selection:
    """Picks samples of a tokenised dataset.

    Args:
        model: a PreTrainedModel that classifies or regresses, or such a model of peft's: its output
            has `.logits` (N, C).
        unlabeled: a datasets.Dataset, or any sequence of dicts; columns that the model's forward
            does not take, and labels, are left out.
        n_select: how many to pick.
        labeled: the labeled samples likewise; None or empty where there are none.
        tokenizer: pads each batch to its longest sample; without one, and without `collate`, all
            samples must be equally long.
        collate: makes a batch of a list of items, instead.
        likelihood: as for `masked_gradients`. None is what the model's configuration asks for:
            "bernoulli" where its `problem_type` is "multi_label_classification", "gaussian" where
            it is "regression" (or where it is None and there is one label, as transformers'
            losses have it), else "categorical". `problem_type` may be None for a multi-label
            model that was never called with labels: set it, or say likelihood="bernoulli".
        batch_size: samples of a forward pass.
        progress: show bars (needs tqdm).
        **options: of FisherMaskSelector, such as fraction=0.01, or mask="head" and
            backward_steps=1 for BAIT; and of its query, such as exclude=, or eval_data= with items
            as those of `unlabeled`.

    Returns:
        The selection, whose `indices` are into `unlabeled`.

    Raises:
        TypeError: data of another kind, both `tokenizer` and `collate`, or an unknown option.
        ValueError: columns of which the model takes none, or as FisherMaskSelector.query.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from fishermask_fast.integrations.huggingface import query
        >>> model = BertForSequenceClassification(
        ...     BertConfig(
        ...         vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...         intermediate_size=32, max_position_embeddings=16, num_labels=3,
        ...     )
        ... )
        >>> pool = [{"input_ids": [2, i + 5, 3], "attention_mask": [1, 1, 1]} for i in range(40)]
        >>> len(query(model, pool[10:], 5, pool[:10]))
        5
    """
    batch_size = check_integer("batch_size", batch_size, 1)
    check_flag("progress", progress)
    if collate is not None and not callable(collate):
        raise TypeError(f"collate must make a batch of a list of items; got {collate!r}")
    if likelihood is None:
        likelihood = _asked_for(model)
    options, asked = split_options(options)
    selector = FisherMaskSelector(model, likelihood=likelihood, **options)
    selector.check_parameters()
    if tokenizer is not None and collate is not None:
        raise TypeError("give tokenizer or collate, not both")
    if tokenizer is not None and not callable(getattr(tokenizer, "pad", None)):
        raise TypeError(f"tokenizer must have a pad method; got {type(tokenizer).__name__}")
    collate = collate or _collator(tokenizer)
    taken = _arguments(model)

    def loader(name: str, data: Any) -> DataLoader[Any]:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(f"{name} must have a length and an index; got {type(data).__name__}")
        if isinstance(data, Mapping):
            raise TypeError(
                f"{name} must be a sequence of dicts; got {type(data).__name__} with keys "
                f"{sorted(data)}. A slice of a datasets.Dataset gives its columns: take "
                "dataset.select(range(...)); of a DatasetDict take one of its splits"
            )
        return DataLoader(data, batch_size, collate_fn=lambda items: collate(_only(items, taken)))

    pool, known = loader("unlabeled", unlabeled), None
    if labeled is not None and (not hasattr(labeled, "__len__") or len(labeled)):
        known = loader("labeled", labeled)
    aim = asked.get("eval_data")
    if aim is not None and not isinstance(aim, (GradientFactors, StoredFactors)):
        asked["eval_data"] = loader("eval_data", aim)
    return selector.query(
        pool,
        n_select,
        known,
        progress=progress,
        **asked,
    )


def _asked_for(model: object) -> str:
    """The likelihood of the loss that transformers would take for this model's configuration."""
    problem = problem_type(model) if isinstance(model, nn.Module) else None
    if problem is None and getattr(getattr(model, "config", None), "num_labels", None) == 1:
        problem = "regression"
    return LIKELIHOOD_OF_PROBLEM.get(problem or "", "categorical")


def _arguments(model: Any) -> set[str] | None:
    """Columns that the model's forward takes; None where it takes any."""
    # An adapter's own forward names some columns and hands all others on.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = inspect.signature(model.forward).parameters.values()
    if all(p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return {p.name for p in parameters} - set(_LABELS)


def _only(items: list[Any], taken: set[str] | None) -> list[Any]:
    if not items or not hasattr(items[0], "keys"):
        kind = type(items[0]).__name__ if items else "nothing"
        raise TypeError(f"items must be dicts of columns, as a tokenizer gives them; got {kind}")
    if taken is None:
        return [{k: item[k] for k in item if k not in _LABELS} for item in items]
    kept = [key for key in items[0] if key in taken]
    if not kept:
        raise ValueError(
            f"the model takes none of the columns {sorted(items[0].keys())}; expected some of "
            f"{sorted(taken)}"
        )
    for item in items:
        if lacking := [key for key in kept if key not in item]:
            raise ValueError(
                f"items must all have the columns {kept}; one has no {lacking[0]!r} but "
                f"{sorted(item.keys())}"
            )
    return [{key: item[key] for key in kept} for item in items]


def _collator(tokenizer: Any) -> Callable[[list[Any]], Any]:
    try:
        from transformers import DataCollatorWithPadding, default_data_collator
    except ImportError as error:
        raise ImportError(
            "fishermask_fast.integrations.huggingface needs transformers: pip install transformers"
        ) from error
    if tokenizer is not None:
        padding: Callable[[list[Any]], Any] = DataCollatorWithPadding(tokenizer)
        return padding

    def collator(items: list[Any]) -> Any:
        try:
            return default_data_collator(items)
        except ValueError as error:
            raise ValueError(
                "without a tokenizer or a collate all samples must hold equally long lists of "
                f"numbers: {error}"
            ) from error

    return collator
