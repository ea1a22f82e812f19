"""Imbalanced pools, tables, texts, first labels, and networks for each kind of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import FisherMask, masked_gradients
from fishermask_fast.cli import main
from fishermask_fast.datasets import images, tables
from fishermask_fast.datasets.imbalance import ratio_counts
from fishermask_fast.datasets.pools import load_data
from fishermask_fast.datasets.samples import Transform
from fishermask_fast.loop.records import read_rounds
from fishermask_fast.loop.run.schedule import initial_set
from fishermask_fast.models.networks import build_model, default_model
from fishermask_fast.options import DataOptions, Schedule


def test_pools_of_given_counts_hold_the_first_classes_only() -> None:
    data = load_data(DataOptions(class_counts=(5, 100, 7), seed=3))
    assert data.pool.targets.bincount().tolist() == [5, 100, 7]
    assert data.classes == ("0", "1", "2")
    whole = load_data(DataOptions(seed=3))
    assert len(data.test) == int((whole.test.targets < 3).sum())
    assert data.test.targets.max() == 2
    assert isinstance(data.pool.source, Tensor) and isinstance(whole.pool.source, Tensor)
    for label in range(3):
        images = data.pool.source[data.pool.targets == label].flatten(1)
        every = whole.pool.source[whole.pool.targets == label].flatten(1)
        assert all((every == image).all(1).any() for image in images)


@pytest.mark.parametrize(
    ("available", "ratio", "total", "counts"),
    [
        ([100, 100, 100], 4.0, None, [100, 50, 25]),
        ([100, 100, 100], 1.0, None, [100, 100, 100]),
        ([100, 100, 100], 1.0, 90, [30, 30, 30]),
        ([100, 20, 100], 4.0, None, [40, 20, 10]),
        ([100, 100, 100], 4.0, 70, [40, 20, 10]),
    ],
)
def test_counts_of_a_ratio(
    available: list[int], ratio: float, total: int | None, counts: list[int]
) -> None:
    assert ratio_counts(available, ratio, total) == counts


def test_pools_of_a_ratio() -> None:
    data = load_data(DataOptions(imbalance_ratio=10.0, pool_size=200))
    counts = data.pool.targets.bincount(minlength=10).tolist()
    assert counts == sorted(counts, reverse=True)
    assert 190 <= sum(counts) <= 200
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.2)
    assert data.test.targets.unique().numel() == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions(class_counts=(5,)), "must name 2 to 10 classes; got 1 counts"),
        (DataOptions(class_counts=(5, 1000)), "class 1 can give 1 to .* samples; got 1000"),
        (DataOptions(class_counts=(5, 0)), "class 1 can give 1 to .* samples; got 0"),
        (
            DataOptions(imbalance_ratio=0.5),
            "must be a finite number of at least 1; got 0.5",
        ),
        (DataOptions(imbalance_ratio=1e4), "leaves class number 5 no samples"),
        (DataOptions(class_counts=(5, 5), imbalance_ratio=2.0), "not both"),
        (DataOptions("20newsgroups", root="nowhere"), "20newsgroups is not in nowhere; .*download"),
        (DataOptions("wine", image_size=3), "image_size is for folders"),
    ],
)
def test_pools_that_cannot_be_are_named(
    options: DataOptions, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_data(options)


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_are_standardised_by_the_pool(name: str, assert_close: Callable[..., None]) -> None:
    data = load_data(DataOptions(name))
    assert data.kind == "tabular" and len(data.shape) == 1
    values = torch.stack([sample for sample, _ in data.pool]).double()
    assert_close(1 + values.mean(0), torch.ones(data.shape[0]).double(), k=400, dtype=torch.float32)
    assert_close(
        values.var(0, correction=0), torch.ones(data.shape[0]).double(), dtype=torch.float32, k=400
    )
    assert len(data.classes) == len(data.test.targets.unique())
    with pytest.raises(ValueError, match="model must be mlp_small for tabular data"):
        build_model("resnet18_small", 3, data.shape)


TEXT = """label,text
good,"A fine day, a fine walk"
good,a fine song
good,fine words and a walk
bad,A dull day
bad,dull and dull again
bad,"a dull, dull song"
"""


def test_texts_are_ids_of_their_words(tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text(TEXT)
    data = load_data(DataOptions(str(tmp_path / "said.csv")))
    assert (data.name, data.kind, data.classes) == ("said", "text", ("bad", "good"))
    assert (len(data.pool), len(data.test)) == (4, 2)
    source = data.pool.source
    assert isinstance(source, Tensor)
    lines = [line.replace('"', "").lower() for line in TEXT.splitlines()[1:]]
    lines = [line.split(",", 1)[1].replace(",", "") for line in lines]
    # The same words have the same ids, and no other word has them.
    seen: dict[int, str] = {}
    for row in source:
        ids = [number for number in row.tolist() if number]
        match = [
            line.split()
            for line in lines
            if len(line.split()) == len(ids)
            and all(seen.get(i, word) == word for i, word in zip(ids, line.split(), strict=True))
        ]
        assert match
        seen |= dict(zip(ids, match[0], strict=True))
    assert source[source > 0].min() >= 2 and source.max() == data.vocabulary - 1
    model = build_model("text_small", 2, data.shape, vocabulary=data.vocabulary)
    logits = model(source)
    assert logits.shape == (4, 2)
    padded = torch.cat([source, torch.zeros(4, 3, dtype=torch.int64)], 1)
    assert torch.allclose(model(padded), logits)
    with pytest.raises(ValueError, match="model must be text_small for texts"):
        build_model("mlp_small", 2, data.shape, vocabulary=data.vocabulary)


def test_csv_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a,label,b\n" + "".join(f"{i},{'xy'[i % 2]},7\n" for i in range(8)))
    data = load_data(DataOptions(str(path)))
    assert (data.kind, data.classes, data.shape) == ("tabular", ("x", "y"), (2,))
    assert isinstance(data.pool.source, Tensor)
    assert not data.pool.source[:, 1].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have a column label and others; it has no rows"),
        ("a,b\n1,2\n", "it has a, b"),
        ("a,label\n1,x\n2,x\n", "at least two labels; got x"),
        ("a,label\n1,x\nmany,y\n", "line 3: a must be a finite number; got 'many'"),
        ("a,label\n1,x\n2,y\n,z\nmany,z\n", "line 5: a must be a finite number; got 'many'"),
        ("a,label\n,x\nNA,y\n", "column a is empty; leave it out"),
        ("a,label\n1,x\n2\n", "row 2 has no label: line 3 holds 1 of the header's 2 cells"),
        ("a,label\n1,x\n2,y,z\n", "line 3 holds 3 cells, more than the header's 2"),
        ("a,label\n1,x\ninf,y\n", "line 3: a must be a finite number; got 'inf'"),
    ],
)
def test_csv_files_that_do_not_fit_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(DataOptions(str(path)))


@pytest.mark.parametrize(
    ("data", "kind", "model"),
    [
        ("digits", "images", "cnn_small"),
        ("svhn", "images", "resnet18_small"),
        ("wine", "tabular", "mlp_small"),
        ("said", "text", "text_small"),
    ],
)
def test_default_models(data: str, kind: str, model: str) -> None:
    assert default_model(kind, data) == model


@pytest.mark.parametrize("data", ["iris", "texts"])
def test_runs_on_tables_and_texts(data: str, tmp_path: Path) -> None:
    if data == "texts":
        data = str(tmp_path / "said.csv")
        lines = TEXT.splitlines()
        Path(data).write_text("\n".join([lines[0], *(8 * lines[1:])]))
    flags = "--strategy fishermask bait badge --initial 6 --per-round 4 --rounds 1 --epochs 1"
    out = tmp_path / "run"
    assert main(["run", "--data", data, *flags.split(), "--min-steps", "5", "--out", str(out)]) == 0
    rounds = list(read_rounds(out))
    assert len(rounds) == 6
    masks = [entry.query["mask"] for entry in rounds if entry.query.get("mask")]
    assert any(masked for mask in masks for name, (masked, _) in mask.items() if name != "5.weight")
    if data == "iris":
        assert main(["plot", str(out)]) == 0
        assert (out / "pictures" / "mask_profile.svg").exists()
        assert not list((out / "pictures").glob("picks_*"))


@pytest.mark.parametrize(
    ("targets", "initial", "counts"),
    [
        ([0] * 10 + [1] * 10, 6, [3, 3]),
        ([0] * 98 + [1] * 2, 10, [9, 1]),
        ([0] * 3 + [1] * 50, 4, [1, 3]),
        ([0] * 2 + [1] * 2, 4, [2, 2]),
    ],
)
def test_stratified_first_labels(targets: list[int], initial: int, counts: list[int]) -> None:
    schedule = Schedule(initial=initial, initial_draw="stratified")
    drawn = initial_set(schedule, torch.tensor(targets), seed=1)
    assert len(set(drawn)) == initial
    assert torch.tensor(targets)[drawn].bincount().tolist() == counts
    assert drawn == initial_set(schedule, torch.tensor(targets), seed=1)
    with pytest.raises(ValueError, match="at least the 3 classes for a stratified draw; got 2"):
        initial_set(
            Schedule(initial=2, initial_draw="stratified"), torch.tensor([0, 1, 2, 2]), seed=0
        )


def test_random_transforms_see_each_sample_alone() -> None:
    transform = Transform(lambda image: image + torch.randint(0, 2**20, ()), random=True)
    assert len(transform(torch.zeros(20)).unique()) == 20


def test_svhn_is_read_as_torchvision_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        def __init__(self, root: str, split: str, download: bool) -> None:
            n = 12 if split == "train" else 4
            self.data = torch.arange(n * 3 * 4 * 5, dtype=torch.int64).reshape(n, 3, 4, 5)
            self.data = (self.data % 251).to(torch.uint8).numpy()
            self.labels = [i % 2 for i in range(n)]

    monkeypatch.setattr("torchvision.datasets.SVHN", Kept)
    data = load_data(DataOptions("svhn"))
    assert (data.shape, len(data.pool), len(data.test), len(data.classes)) == ((3, 4, 5), 12, 4, 10)
    assert data.pool.stored([3])[0, 1, 2, 3] == (3 * 60 + 20 + 10 + 3) % 251
    assert images.TORCHVISION_SETS["mnist"] == "MNIST"


def test_the_small_transformer_has_a_rule_for_every_parameter(
    assert_close: Callable[..., None],
) -> None:
    model = build_model("vit_small", 3, (1, 8, 8)).eval()
    assert all(
        isinstance(m, (nn.Conv2d, nn.Linear, nn.LayerNorm))
        for m in model.modules()
        if list(m.parameters(recurse=False))
    )
    images = torch.randn(2, 1, 8, 8)
    mask = FisherMask.random(model, 0.001)
    found = masked_gradients(model, images, mask, weighting="none").dense()
    log_p = model(images).log_softmax(1)
    for n in range(2):
        for c in range(3):
            model.zero_grad()
            log_p[n, c].backward(retain_graph=True)
            grads = dict(model.named_parameters())
            parts = [grads[name].grad.flatten()[i] for name, i in mask.indices.items()]  # type: ignore[union-attr]
            expected = torch.cat(parts)
            assert_close(found[n, c].sort().values, expected.sort().values, k=10_000)
    with pytest.raises(ValueError, match="vit_small takes images of even sides; got 7 x 8"):
        build_model("vit_small", 3, (1, 7, 8))
