"""When products are float32, and when scores are taken anew."""

from __future__ import annotations

import pytest

from fishermask_fast.engine.precision import TIE, PrecisionPolicy, Remedy


def test_policy_in_float64() -> None:
    policy = PrecisionPolicy(always_float64=True)
    assert policy.remedy(1.0, 2.0, 1.0, None) is None
    policy.observe(1.0)
    assert policy.remedy(2e-3, 2e-3, 1.0, None) is None
    assert policy.remedy(9e-4, 9e-4, 1.0, None) is Remedy.SETUP
    policy.remedied(9e-4)
    assert policy.float64
    assert policy.remedy(9e-4, 9e-4, 1.0, None) is None
    assert policy.remedy(8e-7, 8e-7, 1.0, 9e-4) is Remedy.SETUP
    assert policy.remedy(9e-4, 9e-4, 1e8, 9e-4) is Remedy.SETUP


def test_policy_goes_to_float32_once_scores_have_fallen() -> None:
    policy = PrecisionPolicy(always_float64=False)
    policy.observe(50.0)
    policy.remedied(0.06)
    assert policy.float64
    assert policy.remedy(0.04, 0.04, 1.0, 50.0) is Remedy.FLOAT32
    policy.remedied(0.04)
    assert not policy.float64
    policy.observe(0.04)
    assert policy.remedy(0.04 / 60, 0.04 / 60, 1e8, None) is None
    assert policy.remedy(0.04 / 70, 0.04 / 70, 1e8, None) is Remedy.RENEWAL
    assert policy.remedy(0.04 / 70, 0.04 / 70, 1e11, None) is Remedy.SETUP


@pytest.mark.parametrize("always_float64", [True, False])
def test_policy_remedies_running_scores_that_have_drifted(always_float64: bool) -> None:
    policy = PrecisionPolicy(always_float64)
    policy.observe(1.0)
    policy.remedied(1e-4)
    policy.observe(1e-4)
    margin = policy.margin
    assert policy.remedy(1e-4, 1e-4 * (1 + margin / 5), 1.0, None) is None
    expected = Remedy.SETUP if always_float64 else Remedy.RENEWAL
    assert policy.remedy(1e-4, 1e-4 * (1 + margin / 3), 1.0, None) is expected
    # What is left by then is rounding, however large its share.
    assert policy.remedy(1e-15, 3e-15, 1.0, None) is None


def test_scores_closer_than_the_error_of_both_are_not_told_apart() -> None:
    policy = PrecisionPolicy(always_float64=False)
    assert policy.doubt(1.0) == TIE
    assert policy.doubt(1e9) == pytest.approx(1e-6)
