"""Small inputs for every compiled op, with what the pure torch definition makes of them.

An op that is registered without an entry in SAMPLES fails ``test_every_op_has_samples``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_sample import Sample
from op_samples_forms import (
    masked_head_forms_samples,
    masked_head_gram_samples,
    quadratic_forms_samples,
)
from op_samples_selection import (
    fold_updates_samples,
    inverse_products_samples,
    pick_block_samples,
    pick_update_samples,
    score_update_samples,
)
from op_samples_weights import (
    fisher_diag_conv2d_samples,
    fisher_diag_linear_samples,
    masked_grad_conv2d_samples,
    masked_grad_linear_samples,
)

NAMESPACE = "fishermask_fast"
# Products of torch do the same on a GPU; the callers of these see to it.
CPU_ONLY = (
    "fold_updates",
    "masked_head_forms",
    "masked_head_gram",
    "pick_update",
    "quadratic_forms",
)


def registered_ops() -> list[str]:
    prefix = f"{NAMESPACE}::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def operator(name: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def check_op(name: str) -> None:
    """Raises AssertionError where an op and its definition part."""
    samples = list(SAMPLES[name]())
    assert samples
    for sample in samples:
        check_sample(name, sample)


def check_sample(name: str, sample: Sample) -> None:
    arguments = sample.fresh_arguments()
    result = operator(name)(*arguments)
    returned = result if isinstance(result, tuple) else () if result is None else (result,)
    pairs = list(zip(returned, sample.returned, strict=True))
    pairs += [(arguments[at], expected) for at, expected in sample.changed.items()]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=sample.bound, atol=sample.bound)


SAMPLES: dict[str, Callable[[], Iterator[Sample]]] = {
    "fisher_diag_conv2d": fisher_diag_conv2d_samples,
    "fisher_diag_linear": fisher_diag_linear_samples,
    "fold_updates": fold_updates_samples,
    "inverse_products": inverse_products_samples,
    "masked_grad_conv2d": masked_grad_conv2d_samples,
    "masked_grad_linear": masked_grad_linear_samples,
    "masked_head_forms": masked_head_forms_samples,
    "masked_head_gram": masked_head_gram_samples,
    "pick_block": pick_block_samples,
    "pick_update": pick_update_samples,
    "quadratic_forms": quadratic_forms_samples,
    "score_update": score_update_samples,
}
