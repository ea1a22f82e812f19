"""Data, options and models that masked gradients cannot come from are named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from networks import some_of_each
from test_gradients import make_inputs, make_model
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.masks.mask import FisherMask


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter([])


class Empty(Dataset[Tensor]):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, i: int) -> Tensor:
        raise IndexError


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.empty(0, 1, 5, 5), ValueError, "data is empty"),
        (torch.tensor(1.0), ValueError, "of samples; got a scalar"),
        (Empty(), ValueError, "data is empty"),
        (Stream(), TypeError, "map-style Dataset .* got Stream"),
        (DataLoader(Stream()), TypeError, "IterableDataset"),
        ({"x": torch.ones(3)}, TypeError, "got dict"),
        (5, TypeError, "got int"),
        (
            DataLoader(TensorDataset(torch.ones(3, 2)), sampler=SubsetRandomSampler([0, 1])),
            ValueError,
            "SubsetRandomSampler.*torch.utils.data.Subset",
        ),
        (["abc", "def"], TypeError, "a batch must be"),
    ],
)
def test_bad_data(data: object, error: type[Exception], message: str) -> None:
    model = make_model()
    with pytest.raises(error, match=message):
        masked_gradients(model, data, some_of_each(model))
    with pytest.raises(error, match=message):
        fisher_diagonal(model, data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weighting": "sqrt"}, ValueError, "must be one of fisher, none"),
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"rank": 5}, ValueError, "at most the number of classes 4"),
        ({"rank": 2, "weighting": "none"}, ValueError, "rank=2"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a positive int"),
        ({"indices": [7]}, ValueError, "samples 0 to 6; got 1 outside, such as 7"),
        ({"indices": []}, ValueError, "got none"),
        ({"mask": {"0.weight": [1]}}, TypeError, "mask must be a FisherMask; got dict"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = make_model()
    arguments = {"mask": some_of_each(model)} | options
    with pytest.raises(error, match=message):
        masked_gradients(model, make_inputs(), **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
        ({"n_samples": None}, TypeError, "n_samples must be a positive int"),
        ({"expectation": "mean"}, ValueError, "one of exact, sampled"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_bad_diagonal_options(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fisher_diagonal(make_model(), make_inputs(), **options)


def frozen() -> nn.Module:
    return make_model().requires_grad_(False)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(25, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)).detach()


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Flatten(), ValueError, "it has no parameters"),
        (frozen(), ValueError, "its 6 parameters are all frozen"),
        (nn.Sequential(nn.Flatten(), nn.Linear(25, 1)), ValueError, "two classes"),
        (nn.Sequential(nn.Linear(5, 3)), ValueError, r"shape \(N, C\); got \(7, 1, 5, 3\)"),
        (
            nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *make_model()),
            ValueError,
            "0 is a BatchNorm2d without running statistics",
        ),
        (
            nn.Sequential(AlwaysTraining(1), *make_model()),
            ValueError,
            "0 is a AlwaysTraining that stays in train mode",
        ),
        (nn.Sequential(nn.LazyLinear(3)), ValueError, "0.weight has no shape yet"),
        (Detached(), ValueError, "carry no gradient"),
        (make_model, TypeError, "must be an nn.Module; got function"),
    ],
)
def test_bad_models(model: Any, error: type[Exception], message: str) -> None:
    if isinstance(model, nn.Module) and "Lazy" not in str(model):
        model = model.double()
    with pytest.raises(error, match=message):
        fisher_diagonal(model, make_inputs())


def test_model_on_two_devices() -> None:
    model = make_model()
    model[5] = nn.Linear(6, 4, device="meta")
    with pytest.raises(ValueError, match="on one device; its tensors are on cpu, meta"):
        fisher_diagonal(model, make_inputs())


def test_mask_of_another_model() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="made for another model"):
        masked_gradients(model, make_inputs(), FisherMask.head(make_model(5)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_values_in_the_data(bad: float) -> None:
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)), make_inputs(9).float()
    inputs[4, 0, 0, 0] = inputs[5, 0, 2, 2] = bad
    message = r"2 of samples 3 to 5 \(of 9\) hold NaN or Inf, the first at index 4"
    with pytest.raises(ValueError, match=message):
        masked_gradients(model, inputs, some_of_each(model), batch_size=3)


def test_bad_gradients_of_good_logits() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(2, 2, bias=False), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x).abs().sqrt())

    model, inputs = Root(), torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    with pytest.raises(ValueError, match="masked gradients must be finite.*first at index 1"):
        masked_gradients(model, inputs, some_of_each(model))
    with pytest.raises(ValueError, match="gradients must be finite; those of body.weight"):
        fisher_diagonal(model, inputs)
