"""How large a mask is where nobody says, by the model alone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import FisherMaskSelector
from fishermask_fast.masks import FisherMask
from fishermask_fast.masks.choice import largest_of_all, parts_of_tensors
from fishermask_fast.masks.size import mask_size


@pytest.mark.parametrize(
    ("total", "n_head", "k", "kept"),
    [
        (701_456, 1_280, 2_560, True),  # room beside the head
        (1_000_000, 100, 2_000, True),  # the published share
        (11_181_642, 5_130, 4_096, False),  # a head of more than the most competes
        (11_181_642, 2_565, 4_096, True),
        (11_181_642, 4_000, 4_512, True),  # near the most it is kept, with 512 beside it
        (11_181_642, 4_096, 4_608, True),
        (25_557_032, 2_049_000, 4_096, False),
        (837, 85, 170, True),
        (837, 700, 837, True),
        (7_850, 7_850, 4_096, False),
        (60, 60, 60, True),
        (300, 0, 300, True),  # no head is known
        (100_000, 0, 512, True),
        (600_000, 0, 1_200, True),
        (600_000_000, 0, 4_096, True),
    ],
)
def test_the_default(total: int, n_head: int, k: int, kept: bool) -> None:
    size = mask_size(total, n_head)
    assert (size.k, size.keep_head) == (k, kept)
    assert size.reason
    assert mask_size(total, n_head, keep_head=False).keep_head is False
    assert mask_size(total, n_head, keep_head=False).k == k


def test_a_number_of_parameters_is_that_number() -> None:
    scores = {"a": torch.rand(40), "head.weight": torch.rand(2, 5), "b": torch.rand(7, 9)}
    for method in ("global", "per_layer"):
        for k in (10, 11, 30, 112, 113):
            mask = FisherMask.from_scores(scores, method=method, n_parameters=k)
            assert len(mask) == k and "head.weight" in mask.indices
    assert len(FisherMask.random(nn.Linear(9, 9), n_parameters=17)) == 17


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.1, "n_parameters": 5}, ValueError, "fraction or n_parameters, not both"),
        ({"n_parameters": 5}, ValueError, "fewer than the head's 10 parameters; .* >= 10, or keep"),
        ({"n_parameters": 114}, ValueError, "at most the model's 113; got 114"),
        ({"n_parameters": 0}, ValueError, "n_parameters must be at least 1"),
        ({"n_parameters": 2.5}, TypeError, "n_parameters must be a positive int; got 2.5"),
    ],
)
def test_numbers_that_will_not_do(
    options: dict[str, float], error: type[Exception], message: str
) -> None:
    scores = {"a": torch.rand(40), "head.weight": torch.rand(2, 5), "b": torch.rand(7, 9)}
    with pytest.raises(error, match=message):
        FisherMask.from_scores(scores, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 2, 3, 4, 20, 111])
def test_parts_of_tensors_add_up_and_fit(count: int) -> None:
    sizes = {"a": 1, "b": 100, "c": 10}
    parts = parts_of_tensors(sizes, count)
    assert sum(parts.values()) == count
    assert all(0 <= parts[name] <= size for name, size in sizes.items())
    assert count < 3 or min(parts.values()) > 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [2, 1000])
def test_the_largest_of_all_are_those_of_a_sort(
    seed: int, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fishermask_fast.masks.choice._PIECE", 7)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 30, (4,), generator=generator).tolist()
    flat = {
        str(i): torch.randint(levels, (n,), generator=generator).float()
        for i, n in enumerate(sizes)
    }
    for count in (1, 5, sum(sizes)):
        order = torch.cat(list(flat.values())).sort(descending=True, stable=True).indices[:count]
        expected = set(order[order < sum(sizes)].tolist())
        start, found = 0, set()
        for name, n in zip(flat, sizes, strict=True):
            found |= {
                start + i for i in largest_of_all(flat, count).get(name, torch.empty(0)).tolist()
            }
            start += n
        assert found == expected


def wide(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, n_classes))


def pool(n: int = 30) -> Tensor:
    return torch.randn(n, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n_classes", "k", "keep_head"), [(3, 366, True), (100, 4_096, False)])
def test_a_query_with_nothing_set(
    n_classes: int, k: int, keep_head: bool, caplog: pytest.LogCaptureFixture
) -> None:
    selector = FisherMaskSelector(wide(n_classes), rank=2)
    with caplog.at_level(logging.INFO, "fishermask_fast"):
        selector.query(pool(), 3, progress=False)
    mask = selector.mask_
    assert len(mask) == k
    whole = sum(len(mask.indices[name]) for name in mask.head_names) == 61 * n_classes
    assert whole == keep_head
    assert mask.reason in repr(mask) and mask.reason in caplog.text
    assert f"{k:,}" in repr(mask) and f"{k:,}" in caplog.text


@pytest.mark.parametrize("mask", ["global", "per_layer", "random", "relative", "head", "middle"])
def test_every_mask_with_nothing_set(mask: str) -> None:
    selector = FisherMaskSelector(wide(3), mask=mask)
    assert len(selector.query(pool(), 3, progress=False).indices) == 3
    sizes = {"head": 183, "relative": len(selector.mask_)}
    assert len(selector.mask_) == sizes.get(mask, 366)


def test_a_frozen_head_is_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = wide(3)
    model[2].requires_grad_(False)
    selector = FisherMaskSelector(model)
    selector.query(pool(), 3, progress=False)
    assert "2 is frozen" in caplog.text and set(selector.mask_.indices) == {"0.weight", "0.bias"}
    with pytest.raises(ValueError, match="the head, '2', is frozen"):
        FisherMaskSelector(model, mask="head").query(pool(), 3, progress=False)


def test_the_head_by_hand() -> None:
    model = wide(3)
    selector = FisherMaskSelector(model, head="0", mask="head")
    selector.query(pool(), 3, progress=False)
    assert selector.mask_.head_names == ("0.weight", "0.bias")
    with pytest.raises(ValueError, match="head '7' has no parameters"):
        FisherMaskSelector(model, head="7").query(pool(), 3, progress=False)
