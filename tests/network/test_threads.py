"""A model is read by one thread at a time; others are refused, and nothing of either is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fishermask_fast import FisherMask, FisherMaskSelector, fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.network import evaluating


class Waiting(nn.Module):
    """Stops in its first forward until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.entered.set()
        assert self.go_on.wait(60)
        found: Tensor = self.fc(x)
        return found


CALLS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "fisher_diagonal": fisher_diagonal,
    "masked_gradients": lambda model, x: masked_gradients(
        model, x, FisherMask({"fc.weight": (4, 3), "fc.bias": (4,)},
                             {"fc.weight": torch.tensor([0, 5])}, "test", ())
    ),
    "FisherMask.random": lambda model, x: FisherMask.random(model, 0.5),
    "FisherMaskSelector.query": lambda model, x: FisherMaskSelector(model, mask="head").query(
        x, 2, progress=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_second_thread_is_refused(name: str) -> None:
    model, x = Waiting(), torch.randn(6, 3)
    model.go_on.set()
    expected = fisher_diagonal(model, x)
    model.go_on.clear()
    model.entered.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fisher_diagonal, model, x)
        try:
            assert model.entered.wait(60)
            with pytest.raises(RuntimeError, match=r"model is read by another thread.*deepcopy"):
                CALLS[name](model, x)
        finally:
            model.go_on.set()
        found = first.result()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(p.requires_grad for p in model.parameters()) and model.training
    CALLS[name](model, x)


def test_parts_of_the_model_are_the_models() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    with evaluating(model), ThreadPoolExecutor(1) as pool:
        other = pool.submit(fisher_diagonal, model[1], torch.randn(3, 4))
        with pytest.raises(RuntimeError, match="another thread"):
            other.result()
    fisher_diagonal(model[1], torch.randn(3, 4))


def test_models_of_their_own_side_by_side() -> None:
    models = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(4)]
    x = torch.randn(20, 3)
    expected = [fisher_diagonal(model, x) for model in models]
    before = torch.backends.mha.get_fastpath_enabled(), parametrize._cache_enabled
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda model: fisher_diagonal(model, x), models))
            for each, one in zip(found, expected, strict=True):
                assert all(torch.equal(each[key], one[key]) for key in one)
    assert (torch.backends.mha.get_fastpath_enabled(), parametrize._cache_enabled) == before


def test_switches_outlast_the_first_of_two_readers() -> None:
    with parametrize.cached():
        first, second = evaluating(nn.Linear(2, 2)), evaluating(nn.Linear(2, 2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert parametrize._cache_enabled == 0
        assert not torch.backends.mha.get_fastpath_enabled()
        second.__exit__(None, None, None)
        assert parametrize._cache_enabled == 1
    assert torch.backends.mha.get_fastpath_enabled()
