"""Parameters, data and models that the selector cannot work with are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_selector import (
    CLASSES,
    FEATURES,
    FRACTION,
    N_SELECT,
    make_model,
    some_inputs,  # noqa: F401
)
from torch import Tensor, nn

from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.selector import FisherMaskSelector


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"mask": "best"}, ValueError, "mask must be one of global, .*; got 'best'"),
        ({"mask": None}, ValueError, "mask must be one of"),
        ({"weighting": "sqrt"}, ValueError, "weighting must be"),
        ({"fraction": 0.0}, ValueError, r"fraction must be in \(0, 1\]; got 0.0"),
        ({"fraction": "much"}, TypeError, "fraction must be a number"),
        ({"fraction": 0.1}, ValueError, "fewer than the head's 15 parameters; use fraction >= 0.3"),
        ({"lamb": 0}, ValueError, "lamb must be a finite number above 0; got 0"),
        ({"lamb": float("nan")}, ValueError, "lamb must be a finite number above 0; got nan"),
        ({"lamb": "1"}, TypeError, "lamb must be a number above 0; got '1'"),
        ({"backward_steps": -1}, ValueError, "backward_steps must be at least 0; got -1"),
        ({"backward_steps": 1.0}, TypeError, "backward_steps must be an int"),
        ({"fisher_samples": 0}, ValueError, "fisher_samples must be at least 1; got 0"),
        ({"rank": 0}, ValueError, "rank must be at least 1; got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a positive int; got 2.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
    ],
)
def test_bad_parameters_are_named(
    pool: Tensor, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    query = FisherMaskSelector(make_model(), **{"fraction": FRACTION, **parameters})
    with pytest.raises(error, match=message):
        query.query(pool, 2, progress=False)
    assert not hasattr(query, "mask_")


def nan_at(inputs: Tensor, index: int) -> Tensor:
    inputs = inputs.clone()
    inputs[index] = float("nan")
    return inputs


@pytest.mark.parametrize(
    ("model", "data", "n_select", "error", "message"),
    [
        (make_model, lambda x: x, 0, ValueError, "n_select must be at least 1; got 0"),
        (make_model, lambda x: x, 41, ValueError, "n_select must be at most .* 40 .*; got 41"),
        (make_model, lambda x: x, 2.0, TypeError, "n_select must be a positive int; got 2.0"),
        (make_model, lambda x: x, True, TypeError, "n_select must be a positive int; got True"),
        (make_model, lambda x: x[:0], 1, ValueError, "unlabeled is empty"),
        (make_model, lambda x: x.tolist, 1, TypeError, "unlabeled must be a Tensor"),
        (make_model, lambda x: nan_at(x, 7), 1, ValueError, "first at index 7"),
        (lambda: nn.Tanh(), lambda x: x, 1, ValueError, "it has no parameters"),
        (lambda: "resnet18", lambda x: x, 1, TypeError, "model must be an nn.Module; got str"),
        (
            lambda: nn.Linear(FEATURES, 1).double(),
            lambda x: x,
            1,
            ValueError,
            "at least two classes",
        ),
        (
            lambda: nn.Sequential(
                nn.BatchNorm1d(FEATURES, track_running_stats=False), nn.Linear(FEATURES, 3)
            ).double(),
            lambda x: x,
            1,
            ValueError,
            "without running statistics",
        ),
    ],
)
def test_bad_input_is_named(
    pool: Tensor,
    model: Callable[[], Any],
    data: Callable[[Tensor], Any],
    n_select: Any,
    error: type[Exception],
    message: str,
) -> None:
    query = FisherMaskSelector(model(), fraction=1.0)
    with pytest.raises(error, match=message):
        query.query(data(pool), n_select, progress=False)


def test_a_mask_for_another_model_is_refused(pool: Tensor) -> None:
    mask = FisherMask.head(nn.Linear(FEATURES, CLASSES))
    with pytest.raises(ValueError, match="made for another model"):
        FisherMaskSelector(make_model(), mask=mask).query(pool, 2, progress=False)


def test_a_mask_whose_matrices_no_memory_holds_is_refused_before_any_gradients() -> None:
    query = FisherMaskSelector(nn.Linear(70_000, 3), fraction=1.0, fisher_samples=1)
    with pytest.raises(ValueError, match="k = 210,003 masked parameters .* for k x k matrices"):
        query.query(torch.randn(3, 70_000), 1, progress=False)
    assert "gradients" not in query.seconds_


def test_a_pool_smaller_than_the_forward_pass_is_taken_whole_with_a_warning(pool: Tensor) -> None:
    query = FisherMaskSelector(make_model(), mask="head", backward_steps=1)
    with pytest.warns(UserWarning):
        selection = query.query(pool[:8], N_SELECT, progress=False)
    assert len(selection.indices.unique()) == N_SELECT


def test_integer_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 4, 4), generator=generator, dtype=torch.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    query = FisherMaskSelector(model, fraction=1.0)
    integer = query.query(images, 4, progress=False).indices.tolist()
    assert integer == query.query(images.float(), 4, progress=False).indices.tolist()


@pytest.mark.parametrize("device", ["meta", "nope"])
def test_a_device_that_cannot_compute_leaves_the_model_alone(device: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="device must"):
        FisherMaskSelector(model, mask="head", device=device).query(
            torch.randn(6, 3), 2, progress=False
        )
    with pytest.raises(ValueError, match="device must"):
        fisher_diagonal(model, torch.randn(6, 3), device=device)
    assert model.training and all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_numbers_of_numpy_and_torch() -> None:
    pool = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    given: dict[str, Any] = {
        "fraction": np.float32(0.5),
        "lamb": np.float32(0.5),
        "backward_steps": np.int64(1),
        "fisher_samples": np.int32(20),
        "rank": np.uint8(1),
        "batch_size": np.int64(7),
        "seed": np.int64(3),
    }
    found = FisherMaskSelector(model, **given).query(pool, np.int64(4), progress=False)
    plain = {
        name: float(value) if isinstance(value, np.floating) else int(value)
        for name, value in given.items()
    }
    expected = FisherMaskSelector(model, **plain).query(pool, 4, progress=False)
    assert found.indices.tolist() == expected.indices.tolist()
    for mask in ("random", "head"):
        assert len(FisherMaskSelector(model, **given | {"mask": mask}).query(pool, torch.tensor(4)))


@pytest.mark.parametrize("name", ["unlabeled", "labeled"])
def test_samples_that_the_model_does_not_take_are_named(name: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    pools = {"unlabeled": torch.randn(20, 6), "labeled": torch.randn(5, 6)}
    pools[name] = torch.randn(20, 7)
    selector = FisherMaskSelector(model, fraction=0.9)
    with pytest.raises(ValueError, match=rf"does not take {name} samples, .*\(1, 7\)"):
        selector.query(pools["unlabeled"], 2, pools["labeled"], progress=False)
    assert model.training
