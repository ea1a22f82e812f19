"""What the loop stands on: data, networks, training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Subset

from fishermask_fast.datasets import PoolAndTest, load_data, samples
from fishermask_fast.datasets.samples import IDENTITY, LabeledSamples
from fishermask_fast.loop.run.train import evaluate, settle_batch_norm, train_model, try_training
from fishermask_fast.models.networks import build_model, resnet18_small
from fishermask_fast.options import DataOptions, Recipe

QUICK = Recipe(epochs=2, min_steps=4)


@pytest.fixture(scope="module")
def digits() -> PoolAndTest:
    return load_data(DataOptions(pool_size=80, test_size=60))


def write_images(folder: Path, n_images: int, side: int = 12) -> None:
    """Class folders cats and dogs of random images of unequal sides."""
    generator = torch.Generator().manual_seed(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(n_images):
            pixels = torch.randint(0, 256, (side, side + 6, 3), generator=generator)
            image = Image.fromarray(pixels.to(torch.uint8).numpy())
            image.save(folder / name / f"{number}.png")


def test_digits_are_all_there_once() -> None:
    data = load_data(DataOptions())
    assert (len(data.pool), len(data.test)) == (1297, 500)
    assert data.shape == (1, 8, 8)
    stored = torch.cat([data.pool.source, data.test.source])  # type: ignore[list-item]
    found = sorted(image.flatten().tolist() for image in stored)
    values, labels = load_digits(return_X_y=True)
    assert found == sorted((15 * values).tolist())
    targets = torch.cat([data.pool.targets, data.test.targets])
    assert targets.bincount().tolist() == torch.as_tensor(labels).bincount().tolist()
    shares = data.test.targets.bincount() / targets.bincount()
    assert (shares - 500 / 1797).abs().max() < 0.005


def test_images_are_read_normalised(digits: PoolAndTest) -> None:
    data = load_data(DataOptions())
    images = torch.stack([image for image, _ in data.pool])
    assert abs(images.mean().item()) < 1e-5
    assert abs(images.std(correction=0).item() - 1) < 1e-5


def test_subsets_and_splits_are_drawn_by_the_seed() -> None:
    first, again, other = (
        load_data(DataOptions(pool_size=50, test_size=20, seed=seed)) for seed in (1, 1, 2)
    )
    assert (len(first.pool), len(first.test)) == (50, 20)
    assert torch.equal(first.pool.source, again.pool.source)  # type: ignore[arg-type]
    assert not torch.equal(first.pool.source, other.pool.source)  # type: ignore[arg-type]


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 5)
    write_images(tmp_path / "test", 2)
    data = load_data(DataOptions(str(tmp_path), image_size=8))
    assert data.classes == ("cats", "dogs")
    assert (len(data.pool), len(data.test)) == (10, 4)
    assert data.pool[0][0].shape == data.shape == (3, 8, 8)
    assert data.pool.targets.tolist() == [0] * 5 + [1] * 5


def test_folder_is_split_class_by_class(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    data = load_data(DataOptions(str(tmp_path), image_size=8))
    assert data.pool.targets.bincount().tolist() == [8, 8]
    assert data.test.targets.bincount().tolist() == [2, 2]
    stored = torch.cat([data.pool.source, data.test.source])  # type: ignore[list-item]
    assert len(stored.unique(dim=0)) == 20


def test_only_training_sees_random_crops_and_flips(tmp_path: Path) -> None:
    write_images(tmp_path, 10, side=16)
    data = load_data(DataOptions(str(tmp_path), image_size=16))
    pool = [data.pool[3][0] for _ in range(8)]
    assert all(torch.equal(image, pool[0]) for image in pool)
    training = data.training_set(torch.tensor([3]))
    seen = [training[0][0] for _ in range(8)]
    assert any(not torch.equal(image, seen[0]) for image in seen)
    plain = load_data(DataOptions(str(tmp_path), image_size=16, augment=False))
    assert torch.equal(plain.training_set(torch.tensor([3]))[0][0], pool[0])


@pytest.mark.parametrize("largest", [0, 2**20])
def test_damaged_images_are_left_out_and_said_when_data_are_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    largest: int,
) -> None:
    monkeypatch.setattr(samples, "LARGEST_DECODED", largest)
    write_images(tmp_path, 5)
    whole = load_data(DataOptions(str(tmp_path), image_size=8))
    assert isinstance(whole.pool.source, Tensor) == (largest > 0)
    assert whole.pool[0][0].shape == (3, 8, 8)
    before = [[(image, label) for image, label in part] for part in (whole.pool, whole.test)]
    path = tmp_path / "cats" / "0.png"
    path.write_bytes(path.read_bytes()[:-40])
    left = load_data(DataOptions(str(tmp_path), image_size=8))
    assert len(left.pool) + len(left.test) == len(whole.pool) + len(whole.test) - 1
    assert [(note.path, note.what) for note in left.notes] == [(path, "skipped")]
    assert f"skipped  {path}: " in caplog.text
    # Labels stay with their images.
    for part, same in zip((left.pool, left.test), before, strict=True):
        kept = [label for image, label in same if any(torch.equal(image, x) for x, _ in part)]
        assert part.targets.tolist() == kept
    for other in tmp_path.rglob("*.png"):
        other.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"none of the 8 images of the pool can be read; .*png: "):
        load_data(DataOptions(str(tmp_path), image_size=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            DataOptions("mnist-9"),
            "one of digits, .* existing folder or file .*; got 'mnist-9'; did you mean mnist",
        ),
        (DataOptions(image_size=9), "image_size is for folders"),
        (DataOptions(pool_size=2000), "pool_size must be between 1 and 1297; got 2000"),
        (DataOptions(test_size=0), "test_size must be between 1 and 500; got 0"),
        (
            DataOptions("cifar10", root="nowhere"),
            "cifar10 is not in nowhere; this downloads it: fishermask-fast run .* --download",
        ),
    ],
)
def test_bad_data_options_are_named(options: DataOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(options)


def test_folders_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold one folder of images per class"):
        load_data(DataOptions(str(tmp_path)))
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "test", 3)
    (tmp_path / "test" / "dogs").rename(tmp_path / "test" / "wolves")
    with pytest.raises(ValueError, match="same class folders; .* dogs, wolves"):
        load_data(DataOptions(str(tmp_path)))


def test_the_small_resnet_is_the_published_one() -> None:
    model = resnet18_small(10)
    assert sum(p.numel() for p in model.parameters()) == 701_456
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 17
    assert model.fc.bias is None
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["cnn_small", "mlp_small", "resnet18_small"])
def test_networks_are_made_by_seed(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (build_model(name, 4, (1, 8, 8), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first(torch.zeros(3, 1, 8, 8)).shape == (3, 4)
    parameters = [dict(model.named_parameters()) for model in (first, again, other)]
    last = list(parameters[0])[-1]
    assert torch.equal(parameters[0][last], parameters[1][last])
    assert not torch.equal(parameters[0][last], parameters[2][last])


def test_torchvision_networks_by_name() -> None:
    model = build_model("vit_b_16", 7, (3, 16, 16))
    assert model.heads.head.out_features == 7  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="does not take images of 20 x 20"):
        build_model("vit_b_16", 7, (3, 20, 20))
    with pytest.raises(ValueError, match="3 channels; these have 1"):
        build_model("resnet18", 7, (1, 32, 32))
    with pytest.raises(ValueError, match="model must be one of cnn_small, .*; got 'resnet19'"):
        build_model("resnet19", 7, (3, 32, 32))


def trained(data: PoolAndTest, recipe: Recipe, n: int = 40, seed: int = 0) -> nn.Module:
    model = build_model("cnn_small", 10, data.shape)
    indices = torch.arange(n)
    settling = Subset(data.pool, indices.tolist())
    train_model(model, data.training_set(indices), settling, recipe, seed=seed)
    return model


def test_training_is_repeated_by_seed_and_leaves_the_random_state(digits: PoolAndTest) -> None:
    state = torch.get_rng_state()
    first, again, other = (trained(digits, QUICK, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    weights = [list(model.parameters())[-1] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("recipe", "epochs", "steps"),
    [
        (Recipe(train_batch_size=20, epochs=3, target_accuracy=1.0, min_steps=0), 3, 6),
        (Recipe(train_batch_size=20, epochs=1, min_steps=9), 5, 10),
        (Recipe(train_batch_size=20, target_accuracy=1e-9, min_steps=0), 1, 2),
        (Recipe(train_batch_size=13, epochs=1, min_steps=0), 1, 3),
    ],
    ids=["epochs", "least steps", "accuracy", "one sample left over"],
)
def test_training_stops(digits: PoolAndTest, recipe: Recipe, epochs: int, steps: int) -> None:
    model = build_model("cnn_small", 10, digits.shape)
    data = digits.training_set(torch.arange(40))
    done = train_model(model, data, data, recipe)
    assert (done.epochs, done.steps) == (epochs, steps)


def test_training_reaches_its_accuracy_and_is_evaluated(digits: PoolAndTest) -> None:
    model = trained(digits, Recipe(), n=80)
    assert evaluate(model, digits.pool, 10).accuracy >= 0.99
    found = evaluate(model, digits.test, 10, batch_size=7)
    images = torch.stack([image for image, _ in digits.test])
    logits = model(images).detach()
    correct = logits.argmax(1) == digits.test.targets
    assert found.accuracy == pytest.approx(correct.double().mean().item())
    loss = nn.functional.cross_entropy(logits.double(), digits.test.targets)
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for label, accuracy in enumerate(found.class_accuracy):
        mine = correct[digits.test.targets == label]
        assert accuracy == pytest.approx(mine.double().mean().item())


def test_batch_statistics_are_those_of_the_labeled_set(
    digits: PoolAndTest, assert_close: Callable[..., None]
) -> None:
    model = trained(digits, QUICK)
    images = torch.stack([digits.pool[i][0] for i in range(40)])
    first = model[0](images).detach()  # type: ignore[index, operator]
    norm = model[1]  # type: ignore[index]
    assert_close(norm.running_mean, first.mean((0, 2, 3)), k=40 * 64)
    assert_close(norm.running_var, first.var((0, 2, 3)), k=40 * 64)


def test_batch_statistics_average_over_even_batches(
    digits: PoolAndTest, assert_close: Callable[..., None]
) -> None:
    norm = nn.Sequential(nn.BatchNorm2d(1))
    norm.register_parameter("anchor", nn.Parameter(torch.zeros(())))
    norm.eval()
    settle_batch_norm(norm, Subset(digits.pool, range(50)), batch_size=20)
    images = torch.stack([digits.pool[i][0] for i in range(50)])
    parts = images.tensor_split(3)
    mean = torch.stack([part.mean() for part in parts]).mean()[None]
    # Normalised images have a mean near 0; the error to expect is that of values near 1.
    assert_close(norm[0].running_mean + 1, mean + 1, k=3200)
    assert_close(norm[0].running_var, torch.stack([p.var() for p in parts]).mean()[None], k=3200)
    assert not norm.training


def test_bad_recipes_are_named(digits: PoolAndTest) -> None:
    for options, message in (
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0; got 0.0"),
        ({"target_accuracy": 1.5}, r"target_accuracy must be in \(0, 1\]; got 1.5"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1; got 0"),
        ({"min_steps": -1}, "min_steps must not be negative; got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**options)  # type: ignore[arg-type]
    one = digits.training_set(torch.tensor([0]))
    with pytest.raises(ValueError, match="at least 2 labeled samples; got 1"):
        train_model(build_model("cnn_small", 10, digits.shape), one, one, QUICK)


class TwoOutputs(nn.Linear):
    """Gives a tuple in train mode, as networks with auxiliary heads do."""

    def forward(self, samples: Tensor) -> Any:
        return (super().forward(samples), None) if self.training else super().forward(samples)


def test_networks_that_cannot_be_trained_are_named() -> None:
    four = LabeledSamples(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), IDENTITY)
    for model, message in (
        (nn.Linear(2, 2), r"cannot be trained on a batch \(2, 3\): "),
        (nn.Linear(3, 5), r"must give logits \(2, 2\) in train mode; got \(2, 5\)"),
        (TwoOutputs(3, 2), "must give logits .* got tuple"),
    ):
        with pytest.raises(ValueError, match=message):
            try_training(model, four, 2, 2)
    model = nn.Linear(3, 2)
    state = torch.random.get_rng_state()
    try_training(model, four, 2, 2)
    assert torch.equal(state, torch.random.get_rng_state())
