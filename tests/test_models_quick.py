"""A few of the listed classifiers; `make check-models` goes through all of them."""

from __future__ import annotations

import pytest
import torch
from check_models import apart
from model_list import LIBRARIES, listed

from fishermask_fast import FisherMask
from fishermask_fast.network import find_head


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "squeezenet1_1"),
        ("torchvision", "mobilenet_v3_small"),
        ("timm", "deit_tiny_distilled_patch16_224"),
        ("transformers", "bert"),
        ("transformers", "gpt2"),
        ("peft", "bert, LoRA"),
        ("peft", "bert, LoRA, head frozen"),
        ("peft", "roberta, LoRA"),
    ],
)
def test_head_and_gradients(library: str, name: str) -> None:
    pytest.importorskip(library)
    case = listed(library, name)
    model, batch = case.model(), case.inputs(5)
    assert find_head(model, batch) == case.head
    torch.manual_seed(0)
    mask = FisherMask.random(model, n_parameters=60, head=())
    assert apart(model, batch, mask) < 1e-4


def test_the_lists_are_as_long_as_they_should_be() -> None:
    least = {"torchvision": 80, "timm": 20, "transformers": 20, "peft": 9}
    for library, cases in LIBRARIES.items():
        pytest.importorskip(library)
        assert len({case.name for case in cases()}) >= least[library]
