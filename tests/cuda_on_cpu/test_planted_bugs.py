"""Every bug that is planted into the CUDA kernels still has its place there, and tests to fail."""

from __future__ import annotations

import pytest
from emulated_build import ROOT
from planted_bugs import BUGS, RELEVANT, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_has_one_place_and_tests_to_fail(bug: Bug) -> None:
    text = (ROOT / "csrc" / bug.file).read_text()
    assert bug.planted(text) != text
    assert bug.file in RELEVANT
