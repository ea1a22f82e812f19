"""Every compiled op: equal to its definition on each instruction set, and sound for torch."""

from __future__ import annotations

import pytest
import torch
from op_samples import SAMPLES, Sample, check_sample, operator, registered_ops

CASES = [
    pytest.param(name, sample, id=f"{name}-{sample.label}")
    for name, samples in SAMPLES.items()
    for sample in samples()
]


def test_every_op_has_samples() -> None:
    assert registered_ops() == sorted(SAMPLES)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_op_equals_its_definition(name: str, sample: Sample, instruction_set: str) -> None:
    check_sample(name, sample)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_opcheck(name: str, sample: Sample) -> None:
    torch.library.opcheck(operator(name), sample.fresh_arguments())
