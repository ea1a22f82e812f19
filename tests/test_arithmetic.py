"""float32 is taken for what it is, whatever the process allows its libraries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import (
    FisherMask,
    FisherMaskSelector,
    fisher_diagonal,
    masked_gradients,
    select_batch,
    selection,
)
from fishermask_fast.arithmetic import full_float32

KINDS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def settings() -> list[str]:
    found = []
    for kind in KINDS:
        library, name = kind.split(".")
        found.append(getattr(getattr(torch.backends, library), name).fp32_precision)
    return found


class Watched(nn.Linear):
    """Notes what products may be rounded to while it runs."""

    seen: list[list[str]]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(settings())
        return super().forward(x)


@pytest.fixture
def careless() -> Iterator[list[str]]:
    """A process that allows all there is, as training scripts do."""
    before = torch.get_float32_matmul_precision()
    conv = torch.backends.mkldnn.conv.fp32_precision
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    try:
        yield settings()
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.mkldnn.conv.fp32_precision = conv


def model() -> Watched:
    torch.manual_seed(0)
    watched = Watched(4, 3)
    watched.seen = []
    return watched


WORK: dict[str, Callable[[Watched, Tensor], Any]] = {
    "diagonal": lambda net, x: fisher_diagonal(net, x, n_samples=8),
    "gradients": lambda net, x: masked_gradients(net, x, FisherMask.head(net)),
    "query": lambda net, x: FisherMaskSelector(net, fraction=1.0).query(x, 2),
}


@pytest.mark.parametrize("work", WORK)
def test_networks_run_in_full_float32(work: str, careless: list[str]) -> None:
    assert "bf16" in careless and "tf32" in careless
    net = model()
    WORK[work](net, torch.randn(8, 4))
    assert net.seen and all(seen == ["ieee"] * len(KINDS) for seen in net.seen)
    assert settings() == careless


def test_settings_come_back_after_an_error(careless: list[str]) -> None:
    with pytest.raises(KeyError), full_float32():
        assert settings() == ["ieee"] * len(KINDS)
        raise KeyError
    with pytest.raises(ValueError):
        select_batch(torch.zeros(2, 1, 2), 3)
    assert settings() == careless


def test_settings_come_back_when_the_last_thread_is_done(careless: list[str]) -> None:
    first, second = full_float32(), full_float32()
    with first:
        second.__enter__()
    assert settings() == ["ieee"] * len(KINDS)
    second.__exit__(None, None, None)
    assert settings() == careless


def test_threads_leave_settings_that_torch_understands(careless: list[str]) -> None:
    def often() -> None:
        for _ in range(300):
            with full_float32():
                pass

    threads = [threading.Thread(target=often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings() == careless
    with torch.backends.cudnn.flags(enabled=False):  # asks for both kinds of cuDNN at once
        pass


def test_selection_runs_in_full_float32(
    careless: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    greedy = selection.select_greedily

    def noted(*arguments: Any, **options: Any) -> Any:
        seen.append(settings())
        return greedy(*arguments, **options)

    monkeypatch.setattr(selection, "select_greedily", noted)
    select_batch(torch.randn(6, 2, 3), 2)
    assert seen == [["ieee"] * len(KINDS)]
