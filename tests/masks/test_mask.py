"""Masks: which entries each way takes, and their files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast.gradients.diagonal import fisher_diagonal
from fishermask_fast.masks.mask import FisherMask, TensorShare
from fishermask_fast.network.head import find_head


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 10), nn.Linear(10, 3)
    )


def make_scores(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) for n, p in make_model().named_parameters()}


TOTAL = sum(p.numel() for p in make_model().parameters())  # 451
HEAD = 33


def members(mask: FisherMask) -> set[tuple[str, int]]:
    return {(name, i) for name, index in mask.indices.items() for i in index.tolist()}


def largest(scores: dict[str, Tensor], count: int) -> set[tuple[str, int]]:
    flat = [
        (-float(v), j, i) for j, s in enumerate(scores.values()) for i, v in enumerate(s.flatten())
    ]
    names = list(scores)
    return {(names[j], i) for _, j, i in sorted(flat)[:count]}


def whole_head() -> set[tuple[str, int]]:
    return {("4.weight", i) for i in range(30)} | {("4.bias", i) for i in range(3)}


def test_global_takes_the_head_and_the_largest_of_the_rest() -> None:
    scores = make_scores()
    mask = FisherMask.from_scores(scores, 0.2, head="4")
    k = math.floor(0.2 * TOTAL)
    assert len(mask) == k
    rest = {name: s for name, s in scores.items() if not name.startswith("4")}
    assert members(mask) == whole_head() | largest(rest, k - HEAD)
    assert mask.head_names == ("4.weight", "4.bias")


def test_global_without_the_head_kept() -> None:
    scores = make_scores()
    mask = FisherMask.from_scores(scores, 0.05, keep_head=False)
    assert members(mask) == largest(scores, math.floor(0.05 * TOTAL))


@pytest.mark.parametrize("keep_head", [True, False])
def test_per_layer_takes_the_top_of_each_tensor(keep_head: bool) -> None:
    scores = make_scores()
    mask = FisherMask.from_scores(scores, 0.1, "per_layer", head="4", keep_head=keep_head)
    expected = set().union(
        *(largest({n: s}, math.ceil(0.1 * s.numel())) for n, s in scores.items())
    )
    assert members(mask) == (expected | whole_head() if keep_head else expected)


def test_relative_takes_outliers_only() -> None:
    scores = {"a.weight": torch.ones(10, 20), "b.weight": torch.ones(10, 20)}
    scores["a.weight"].view(-1)[[3, 7]] = 100.0
    scores["b.weight"].view(-1)[torch.arange(50, 60)] = 100.0
    mask = FisherMask.from_scores(scores, 0.5, "relative", keep_head=False)
    # Two stand out in a; of the ten in b, 2.5% of 200 are five.
    assert mask.indices["a.weight"].tolist() == [3, 7]
    assert mask.indices["b.weight"].tolist() == [50, 51, 52, 53, 54]


def test_ties_go_to_the_lowest_position() -> None:
    scores = {"a": torch.zeros(5), "b": torch.zeros(5)}
    mask = FisherMask.from_scores(scores, 0.7, keep_head=False)
    assert mask.indices["a"].tolist() == [0, 1, 2, 3, 4]
    assert mask.indices["b"].tolist() == [0, 1]


@pytest.mark.parametrize(("fraction", "size"), [(0.29, 100), (0.07, 100), (0.57, 100)])
def test_k_is_the_whole_number_meant(fraction: float, size: int) -> None:
    mask = FisherMask.from_scores({"a": torch.rand(size)}, fraction, keep_head=False)
    assert len(mask) == round(fraction * size)


def test_random_is_uniform_repeatable_and_leaves_the_generator_alone() -> None:
    model = make_model()
    before = torch.get_rng_state()
    mask = FisherMask.random(model, 0.1, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert len(mask) == math.floor(0.1 * TOTAL) and mask.method == "random"
    assert mask == FisherMask.random(model, 0.1, seed=3)
    assert mask != FisherMask.random(model, 0.1, seed=4)
    counts = torch.zeros(TOTAL)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    ends = torch.tensor(list(sizes.values())).cumsum(0).tolist()
    starts = {name: end - sizes[name] for name, end in zip(sizes, ends, strict=True)}
    draws = 400
    for seed in range(draws):
        for name, index in FisherMask.random(model, 0.1, seed=seed).indices.items():
            counts[starts[name] + index] += 1
    share = math.floor(0.1 * TOTAL) / TOTAL
    # Six standard deviations of a binomial count over all positions.
    assert (counts - draws * share).abs().max() < 6 * (draws * share * (1 - share)) ** 0.5


def test_random_can_keep_the_head() -> None:
    mask = FisherMask.random(make_model(), 0.1, seed=1, keep_head=True)
    assert whole_head() <= members(mask) and len(mask) == math.floor(0.1 * TOTAL)


def test_head_alone() -> None:
    assert members(FisherMask.head(make_model())) == whole_head()
    assert set(FisherMask.head(make_model(), "3").indices) == {"3.weight", "3.bias"}
    assert find_head(nn.Linear(2, 3)) == ""
    assert len(FisherMask.head(nn.Linear(2, 3))) == 9


def test_frozen_parameters_are_never_masked() -> None:
    model = make_model()
    model[3].weight.requires_grad_(False)
    for mask in (FisherMask.random(model, 0.9), FisherMask.head(model)):
        assert "3.weight" not in mask.shapes and "3.weight" not in mask.indices
    model[4].requires_grad_(False)
    assert find_head(model) is None
    with pytest.raises(ValueError, match="no trainable nn.Linear"):
        FisherMask.head(model)


def test_profile_and_overlap() -> None:
    scores = make_scores()
    mask = FisherMask.from_scores(scores, 0.2, head="4")
    profile = mask.profile()
    assert [row.name for row in profile] == list(scores)
    assert sum(row.masked for row in profile) == len(mask)
    assert profile[-1] == TensorShare("4.bias", 3, 3)
    assert mask.overlap(mask) == 1.0
    other = FisherMask.from_scores(make_scores(1), 0.3, head="4")
    common = len(members(mask) & members(other))
    assert mask.overlap(other) == other.overlap(mask) == common / len(other)


def test_save_and_load(tmp_path: Path) -> None:
    mask = FisherMask.from_scores(make_scores(), 0.2, head="4")
    path = tmp_path / "mask.file"
    mask.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["mask.file"]
    loaded = FisherMask.load(path)
    assert loaded == mask
    assert (loaded.method, loaded.head_names) == (mask.method, mask.head_names)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a saved FisherMask"):
        FisherMask.load(path)


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = FisherMask.from_scores(make_scores(), 0.2, head="4")
    path = tmp_path / "mask.npz"
    mask.save(path)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("numpy.savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        FisherMask.head(make_model()).save(path)
    assert FisherMask.load(path) == mask
    assert len(list(tmp_path.iterdir())) == 1


def test_check_against_another_model() -> None:
    mask = FisherMask.from_scores(make_scores(), 0.2, head="4")
    mask.check(make_model())
    wider = make_model()
    wider[0] = nn.Conv2d(1, 4, 5)
    shapes = r"0.weight is \(4, 1, 5, 5\) in the model and \(4, 1, 3, 3\) in the mask"
    with pytest.raises(ValueError, match=shapes):
        mask.check(wider)
    with pytest.raises(ValueError, match="made for another model"):
        mask.check(nn.Linear(2, 3))
    frozen = make_model()
    frozen[0].requires_grad_(False)
    with pytest.raises(ValueError, match="0.weight are not in the model or frozen"):
        mask.check(frozen)
    with pytest.raises(ValueError, match="made for another model"):
        mask.overlap(FisherMask.head(nn.Linear(2, 3)))


def test_fraction_too_small_for_the_head() -> None:
    scores = make_scores()
    with pytest.raises(ValueError, match=r"k = 4, fewer than the head's 33 parameters") as caught:
        FisherMask.from_scores(scores, 0.01, head="4")
    fraction = float(str(caught.value).split(">= ")[1].split(",")[0])
    assert len(FisherMask.from_scores(scores, fraction, head="4")) == HEAD


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fraction": 0}, ValueError, r"in \(0, 1\]; got 0"),
        ({"fraction": 1.5}, ValueError, r"in \(0, 1\]; got 1.5"),
        ({"fraction": "0.1"}, TypeError, "a number"),
        ({"fraction": math.nan}, ValueError, "got nan"),
        ({"method": "standard"}, ValueError, "global, per_layer, relative; got 'standard'"),
        ({"scores": {}}, ValueError, "at least one tensor"),
        ({"scores": [1]}, TypeError, "parameter names"),
        ({"scores": {"a": torch.ones(3, dtype=torch.int64)}}, TypeError, "a is torch.int64"),
        (
            {"scores": {"a": torch.tensor([1.0, math.nan, math.inf])}},
            ValueError,
            "2 of a's 3 are NaN or Inf, the first at 1",
        ),
        ({"scores": {"a": torch.ones(3)}, "head": None}, ValueError, "looks like a head"),
        ({"head": None}, ValueError, r"several layers may be the head: 3, 4; name it with head="),
        ({"head": "no"}, ValueError, "head 'no' has no trainable parameters"),
    ],
)
def test_bad_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"scores": make_scores(), "fraction": 0.2, "head": "4"} | change
    with pytest.raises(error, match=message):
        FisherMask.from_scores(**arguments)  # type: ignore[arg-type]


def test_empty_mask() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        FisherMask.from_scores({"a.weight": torch.ones(9)}, 0.5, "relative", keep_head=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"indices": {"a": torch.tensor([1, 6])}}, ValueError, "a must be 0 to 5; got 1 to 6"),
        ({"indices": {"a": torch.tensor([-1, 2])}}, ValueError, "0 to 5; got -1 to 2"),
        ({"indices": {"a": torch.tensor([2, 1])}}, ValueError, "ascend without repetition"),
        ({"indices": {"a": torch.tensor([1, 1])}}, ValueError, "ascend without repetition"),
        ({"indices": {"a": torch.tensor([[1]])}}, ValueError, r"must be \(m,\)"),
        ({"indices": {"a": torch.tensor([1.0])}}, TypeError, "int64 tensor; got torch.float32"),
        ({"indices": {"a": [1]}}, TypeError, "int64 tensor; got list"),
        ({"indices": {"b": torch.tensor([1])}}, ValueError, "among its shapes; b is not"),
        ({"indices": {}}, ValueError, "at least one parameter; got none"),
        ({"head_names": ("fc.weight",)}, ValueError, "among its shapes; fc.weight is not"),
    ],
)
def test_bad_masks_made_by_hand(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {"shapes": {"a": (2, 3)}, "indices": {"a": torch.tensor([0, 5])}, "method": "own"}
    assert len(FisherMask(**arguments)) == 2  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        FisherMask(**arguments | change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "error"),
    [("a", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError), (2**70, ValueError)],
)
def test_bad_seeds(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed must be"):
        FisherMask.random(make_model(), 0.1, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(error, match="seed must be"):
        fisher_diagonal(make_model(), torch.randn(2, 1, 5, 5), seed=seed)  # type: ignore[arg-type]


def test_overlap_with_no_mask() -> None:
    with pytest.raises(TypeError, match="other must be a FisherMask; got str"):
        FisherMask.head(make_model()).overlap("x")  # type: ignore[arg-type]
