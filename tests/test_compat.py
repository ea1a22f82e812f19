"""The published signatures: the published formulas' picks, from the same arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pools import random_fisher
from torch import Tensor

from fishermask_fast import compat

N, C, DIM = 60, 4, 15


def published(
    x: Tensor,
    n_select: int,
    fisher: Tensor,
    iterates: Tensor,
    lamb: float,
    backward: int,
    n_labeled: int,
) -> list[int]:
    """Forward and backward greedy with every inverse taken outright, in float64."""
    x = x.double() * (n_select / (n_labeled + n_select)) ** 0.5
    eye = torch.eye(DIM, dtype=torch.float64)
    small = torch.eye(C, dtype=torch.float64)
    inverse = torch.inverse(lamb * eye + iterates.double() * n_labeled / (n_labeled + n_select))
    chosen: list[int] = []

    def traces(v: Tensor, sign: int) -> Tensor:
        inner = torch.inverse(sign * small + v @ inverse @ v.mT)
        product = v @ inverse @ fisher.double() @ inverse @ v.mT @ inner
        return product.diagonal(dim1=-2, dim2=-1).sum(-1)

    def include(v: Tensor, sign: int) -> Tensor:
        inner = torch.inverse(sign * small + v @ inverse @ v.T)
        return inverse - inverse @ v.T @ inner @ v @ inverse

    while len(chosen) < (1 + backward) * n_select:
        order = traces(x, 1).argsort(descending=True).tolist()
        best = next(i for i in order if i not in chosen)
        chosen.append(best)
        inverse = include(x[best], 1)
    while len(chosen) > n_select:
        # Each trace is minus what the removal raises tr(M^-1 F) by.
        least = int(traces(x[chosen], -1).argmax())
        inverse = include(x[chosen.pop(least)], -1)
    return chosen


@pytest.fixture
def pool(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(N, C, DIM, generator=generator)
    return x, random_fisher(generator, DIM).float(), random_fisher(generator, DIM).float()


@pytest.mark.parametrize("lamb", [1, 0.05])
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("n_labeled", [0, 13])
def test_both_equal_the_published_formulas(
    lamb: float, backward: int, n_labeled: int, pool: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, fisher, iterates = pool
    expected = published(x, 12, fisher, iterates, lamb, backward, n_labeled)
    # Positional, as the published scripts call them.
    found = compat.select(x, 12, fisher, iterates, None, None, lamb, backward, n_labeled)
    assert found == expected
    assert compat.fresh_select(x, 12, fisher, iterates, lamb, backward, n_labeled) == expected
    assert all(type(index) is int for index in found)


@pytest.mark.parametrize("function", [compat.select, compat.fresh_select])
def test_numpy_gradients(
    function: Callable[..., list[int]], pool: tuple[Tensor, Tensor, Tensor]
) -> None:
    # As the published scripts call it: a numpy pool beside float32 matrices, a numpy count.
    x, fisher, iterates = pool
    array = x.double().numpy()
    before = array.copy()
    found = function(array, 9, fisher, iterates, lamb=1, nLabeled=np.sum(np.ones(5, dtype=bool)))
    assert found == function(x, 9, fisher, iterates, nLabeled=5)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("function", [compat.select, compat.fresh_select, compat.bait_select])
def test_arrays_of_any_layout(
    function: Callable[..., list[int]], pool: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, fisher, iterates = (part.double() for part in pool)
    expected = function(x.flip(0), 9, fisher, iterates, nLabeled=5)
    backwards = x.numpy()[::-1]
    matrices = np.asfortranarray(fisher.numpy()), iterates.numpy().astype(">f8")
    assert function(backwards, 9, *matrices, nLabeled=5) == expected


@pytest.mark.parametrize("lamb", [1, 0.05])
@pytest.mark.parametrize("n_labeled", [0, 13])
def test_both_signatures_of_bait(
    lamb: float, n_labeled: int, pool: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, fisher, iterates = (part.double() for part in pool)
    found = compat.bait_select(x, 12, fisher, iterates, lamb=lamb, nLabeled=n_labeled)
    assert found == published(x, 12, fisher, iterates, lamb, 1, n_labeled)
    assert all(type(index) is int for index in found)
    for steps in (0, 1, 2):
        expected = published(x, 12, fisher, iterates, lamb, steps, n_labeled)
        given = (x, 12, fisher, iterates, lamb)
        assert compat.bait_select(*given, steps, n_labeled) == expected
        found = compat.bait_select(*given, backwardSteps=steps, nLabeled=n_labeled)
        assert found == expected


@pytest.mark.parametrize("more", [(5,), (1, 5, 7)])
def test_bait_asks_for_names(more: tuple[int, ...], pool: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(TypeError, match=f"name it; got {5 + len(more)}"):
        compat.bait_select(pool[0], 4, pool[1], pool[2], 1, *more)


@pytest.mark.parametrize("function", [compat.select, compat.fresh_select, compat.bait_select])
def test_warning_points_at_the_call(
    function: Callable[..., list[int]], pool: tuple[Tensor, Tensor, Tensor]
) -> None:
    with pytest.warns(UserWarning, match="all of them are picked first") as caught:
        assert len(function(*pool[:1], 40, *pool[1:], backwardSteps=1)) == 40
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("chunk_size", [1, 7, 200])
def test_chunk_size_changes_nothing(chunk_size: int, pool: tuple[Tensor, Tensor, Tensor]) -> None:
    x, fisher, iterates = pool
    expected = compat.select(x, 9, fisher, iterates, nLabeled=5)
    assert compat.select(x, 9, fisher, iterates, nLabeled=5, chunkSize=chunk_size) == expected


def test_log_file_arguments_have_no_effect(
    pool: tuple[Tensor, Tensor, Tensor],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    x, fisher, iterates = pool
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    monkeypatch.setattr(compat._logger, "info", said.append)
    found = compat.select(x, 5, fisher, iterates, savefile="log", alg="FISH")
    assert len(said) == 1 and "savefile and alg have no effect" in said[0]
    assert found == compat.select(x, 5, fisher, iterates)
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            compat.select,
            "X K fisher iterates savefile alg lamb backwardSteps nLabeled chunkSize",
        ),
        (compat.fresh_select, "X K fisher iterates lamb backwardSteps nLabeled"),
    ],
)
def test_signatures(function: Callable[..., Any], names: str) -> None:
    parameters = inspect.signature(function).parameters
    assert list(parameters) == names.split()
    defaults = {"lamb": 1, "backwardSteps": 0, "nLabeled": 0}
    assert {name: parameters[name].default for name in defaults} == defaults


def test_select_called_as_fresh_select(pool: tuple[Tensor, Tensor, Tensor]) -> None:
    x, fisher, iterates = pool
    with pytest.raises(TypeError, match="savefile must be a path or None; got 1. In fresh_select"):
        compat.select(x, 5, fisher, iterates, 1, 0, 13)


BAD = {
    "more than the pool": ({"K": 61}, ValueError, "at most the pool's 60 samples; got 61"),
    "a fraction to select": ({"K": 0.5}, TypeError, "integer; got 0.5"),
    "flat gradients": ({"X": torch.ones(12, 51)}, ValueError, r"\(N, r, k\); got \(12, 51\)"),
    "fisher of another size": ({"fisher": torch.eye(3)}, ValueError, r"got \(3, 3\)"),
    "iterates of another size": ({"iterates": torch.eye(3)}, ValueError, r"got \(3, 3\)"),
    "lamb of zero": ({"lamb": 0}, ValueError, "lamb must be.*above 0; got 0"),
    "several nLabeled": ({"nLabeled": np.ones(2)}, TypeError, "nLabeled must be an integer"),
    "negative nLabeled": ({"nLabeled": -1}, ValueError, "at least 0; got -1"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("function", [compat.select, compat.fresh_select, compat.bait_select])
def test_bad_input(
    function: Callable[..., Any],
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    pool: tuple[Tensor, Tensor, Tensor],
) -> None:
    x, fisher, iterates = pool
    given: dict[str, Any] = {"X": x, "K": 4, "fisher": fisher, "iterates": iterates, "nLabeled": 4}
    given |= change
    tensors = [value for value in given.values() if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises(error, match=message):
        function(**given)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
