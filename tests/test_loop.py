"""The loop's parts: data, networks, training, strategies, records, pictures, and a whole run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Subset

from fishermask_fast.loop import plots, records, strategies, tables
from fishermask_fast.loop.datasets import DataOptions, LoopData, load_data
from fishermask_fast.loop.experiment import Experiment, Schedule
from fishermask_fast.loop.models import build_model, default_fraction, resnet18_small
from fishermask_fast.loop.records import Round, RunFolder, read_rounds
from fishermask_fast.loop.strategies import QueryOptions
from fishermask_fast.loop.train import Recipe, evaluate, settle_batch_norm, train_model

QUICK = Recipe(epochs=2, min_steps=4)
QUERY = QueryOptions(fraction=0.03, fisher_samples=32)


@pytest.fixture(scope="module")
def digits() -> LoopData:
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
    assert data.image_shape == (1, 8, 8)
    stored = torch.cat([data.pool.source, data.test.source])  # type: ignore[list-item]
    found = sorted(image.flatten().tolist() for image in stored)
    values, labels = load_digits(return_X_y=True)
    assert found == sorted((15 * values).tolist())
    targets = torch.cat([data.pool.targets, data.test.targets])
    assert targets.bincount().tolist() == torch.as_tensor(labels).bincount().tolist()
    shares = data.test.targets.bincount() / targets.bincount()
    assert (shares - 500 / 1797).abs().max() < 0.005


def test_images_are_read_normalised(digits: LoopData) -> None:
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
    assert data.pool[0][0].shape == data.image_shape == (3, 8, 8)
    assert data.pool.targets.tolist() == [0] * 5 + [1] * 5


def test_folder_is_split_class_by_class(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    data = load_data(DataOptions(str(tmp_path), image_size=8))
    assert data.pool.targets.bincount().tolist() == [8, 8]
    assert data.test.targets.bincount().tolist() == [2, 2]
    paths = data.pool.source.paths + data.test.source.paths  # type: ignore[union-attr]
    assert len(set(paths)) == 20


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


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    for path in (tmp_path / "cats").iterdir():
        path.write_bytes(b"not an image")
    data = load_data(DataOptions(str(tmp_path), image_size=8))
    with pytest.raises(ValueError, match=r"cannot read image .*cats.*png"):
        data.pool[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions("mnist-9"), "data must be one of digits, .* existing folder; got 'mnist-9'"),
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


@pytest.mark.parametrize("name", ["cnn_small", "mlp_small", "resnet18_small"])
def test_the_default_fraction_is_wider_than_the_head(name: str) -> None:
    model = build_model(name, 10, (1, 8, 8))
    head = list(model.parameters())[-1].numel()
    fraction = default_fraction(name, 10, (1, 8, 8))
    assert fraction * sum(p.numel() for p in model.parameters()) > head


@pytest.mark.parametrize(("n_classes", "k"), [(10, 512 * 10 + 10 + 512), (4, 4096)])
def test_the_default_mask_of_a_large_network_is_bounded(n_classes: int, k: int) -> None:
    model = build_model("resnet18", n_classes, (3, 32, 32))
    size = sum(p.numel() for p in model.parameters())
    assert default_fraction("resnet18", n_classes, (3, 32, 32)) * size == pytest.approx(k)


def trained(data: LoopData, recipe: Recipe, n: int = 40, seed: int = 0) -> nn.Module:
    model = build_model("cnn_small", 10, data.image_shape)
    indices = torch.arange(n)
    settling = Subset(data.pool, indices.tolist())
    train_model(model, data.training_set(indices), settling, recipe, seed=seed)
    return model


def test_training_is_repeated_by_seed_and_leaves_the_random_state(digits: LoopData) -> None:
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
def test_training_stops(digits: LoopData, recipe: Recipe, epochs: int, steps: int) -> None:
    model = build_model("cnn_small", 10, digits.image_shape)
    data = digits.training_set(torch.arange(40))
    done = train_model(model, data, data, recipe)
    assert (done.epochs, done.steps) == (epochs, steps)


def test_training_reaches_its_accuracy_and_is_evaluated(digits: LoopData) -> None:
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


def test_batch_statistics_are_those_of_the_labelled_set(
    digits: LoopData, assert_close: Callable[..., None]
) -> None:
    model = trained(digits, QUICK)
    images = torch.stack([digits.pool[i][0] for i in range(40)])
    first = model[0](images).detach()  # type: ignore[index, operator]
    norm = model[1]  # type: ignore[index]
    assert_close(norm.running_mean, first.mean((0, 2, 3)), k=40 * 64)
    assert_close(norm.running_var, first.var((0, 2, 3)), k=40 * 64)


def test_batch_statistics_average_over_even_batches(
    digits: LoopData, assert_close: Callable[..., None]
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


def test_bad_recipes_are_named(digits: LoopData) -> None:
    for options, message in (
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"target_accuracy": 1.5}, r"target_accuracy must be in \(0, 1\]; got 1.5"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1; got 0"),
        ({"min_steps": -1}, "min_steps must not be negative; got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**options)  # type: ignore[arg-type]
    one = digits.training_set(torch.tensor([0]))
    with pytest.raises(ValueError, match="at least 2 labelled samples; got 1"):
        train_model(build_model("cnn_small", 10, digits.image_shape), one, one, QUICK)


@pytest.mark.parametrize("name", list(strategies.STRATEGIES))
def test_strategies_pick_different_samples_by_seed(digits: LoopData, name: str) -> None:
    model = trained(digits, QUICK)
    pool, labelled = Subset(digits.pool, range(40, 80)), Subset(digits.pool, range(40))
    first, again = (
        strategies.STRATEGIES[name](model, pool, labelled, 8, 3, QUERY) for _ in range(2)
    )
    assert first.indices.tolist() == again.indices.tolist()
    assert len(first.indices.unique()) == 8
    assert first.indices.min() >= 0 and first.indices.max() < 40
    json.dumps(first.info)


def test_random_strategy_is_uniform() -> None:
    counts = torch.zeros(6)
    for seed in range(600):
        picks = strategies.random(nn.Identity(), range(6), range(0), 2, seed, QUERY)  # type: ignore[arg-type]
        counts[picks.indices] += 1
    # 600 draws of 2 of 6: 200 each, standard deviation 11.5.
    assert (counts - 200).abs().max() < 5 * 11.5


def make_round(strategy: str = "random", number: int = 0, accuracy: float = 0.5) -> Round:
    return Round(
        strategy=strategy,
        seed=0,
        round=number,
        picks=[3, 1],
        n_labeled=2 + 2 * number,
        accuracy=accuracy,
        class_accuracy=[0.5, None],
        label_counts=[1, 1],
        training={"epochs": 1, "steps": 2, "accuracy": 1.0, "loss": 0.1},
        seconds={"train": 0.1} | ({"query": 0.25} if number else {}),
        query={"objective": [8.0, 4.0, 2.0]} if number and strategy == "bait" else {},
    )


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", {"seed": 4})
    entries = [make_round("random", 0), make_round("bait", 1)]
    for entry in entries:
        folder.append(entry)
    assert list(read_rounds(folder.path)) == entries
    config = json.loads((folder.path / "config.json").read_text())
    assert config["config"] == {"seed": 4}
    assert config["versions"]["torch"] is not None
    assert {path.name for path in folder.path.iterdir()} == {"config.json", "rounds.jsonl"}


def test_records_refuse_what_is_there_already(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {})
    with pytest.raises(ValueError, match="holds a run already"):
        RunFolder(tmp_path / "run", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out must be a folder"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(ValueError, match=r"holds no rounds.jsonl"):
        list(read_rounds(tmp_path))
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is not a round"):
        list(read_rounds(tmp_path))


def test_a_line_that_does_not_fit_is_not_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, {})
    folder.append(make_round())
    write = records.os.write
    monkeypatch.setattr(records.os, "write", lambda file, line: write(file, line[:10]))
    with pytest.raises(OSError, match="no room left"):
        folder.append(make_round())
    assert len(list(read_rounds(tmp_path))) == 1


def test_fresh_folders(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = records.fresh_folder(tmp_path, "run")
        path.mkdir()
        names.append(path.name)
    assert names == ["run", "run-2", "run-3"]


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    records.replace_file(path, b"before")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        records.replace_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_learning_curve_is_a_png_with_a_line_for_each_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    lines: dict[str, tuple[list[int], list[float]]] = {}
    plot = Axes.plot

    def watch(self: Axes, x: list[int], y: list[float], **options: object) -> object:
        lines[str(options["label"])] = (x, y)
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", watch)
    entries = [
        make_round(name, number, accuracy=0.1 * number + 0.05 * len(name))
        for number in range(20)
        for name in ("random", "bait")
    ]
    plots.learning_curve(entries, tmp_path / "curve.png", "a title")
    assert set(lines) == {"random", "bait"}
    assert lines["bait"] == ([2 + 2 * n for n in range(20)], [0.1 * n + 0.2 for n in range(20)])
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    with pytest.raises(ValueError, match="at least one round"):
        plots.learning_curve([], tmp_path / "none.png", "")


def test_tables_say_what_was_gained() -> None:
    entries = [
        make_round("bait", 0, 0.5),
        make_round("random", 0, 0.5),
        make_round("bait", 1, 0.75),
        make_round("random", 1, 0.6),
    ]
    names = tables.header(["bait", "random"]).splitlines()[1]
    assert names.split() == ["round", "labels", "bait", "random"]
    assert tables.row(entries[2:]).split() == ["1", "4", "75.0%", "60.0%"]
    bait, random = tables.summary(entries).splitlines()[1:]
    assert " ".join(bait.split()) == "bait 2 -> 4 50.0% -> 75.0% +25.0 75.0% 0.25 s 8 -> 2"
    assert " ".join(random.split()) == "random 2 -> 4 50.0% -> 60.0% +10.0 60.0% 0.25 s -"
    assert "-" in tables.summary(entries[:2])


SCHEDULE = Schedule(initial=12, per_round=6, rounds=2)


def run(data: LoopData, schedule: Schedule, folder: Path) -> list[Round]:
    experiment = Experiment(data, "cnn_small", schedule, QUICK, QUERY)
    return list(experiment.run(RunFolder(folder, experiment.config())))


def test_a_run_labels_each_sample_once_and_is_repeated_by_its_seed(
    digits: LoopData, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    first = run(digits, SCHEDULE, tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), state)
    assert first == list(read_rounds(tmp_path / "first"))
    assert [(r.round, r.strategy) for r in first] == [
        (number, name) for number in range(3) for name in SCHEDULE.strategies
    ]
    for name in SCHEDULE.strategies:
        mine = [entry for entry in first if entry.strategy == name]
        assert mine[0].picks == first[0].picks
        assert mine[0].accuracy == first[0].accuracy
        picks = [pick for entry in mine for pick in entry.picks]
        assert len(picks) == len(set(picks)) == 24
        assert set(picks) <= set(range(80))
        assert [entry.n_labeled for entry in mine] == [12, 18, 24]
        for entry in mine:
            counts = digits.pool.targets[entry.picks].bincount(minlength=10)
            assert entry.label_counts == counts.tolist()

    again = run(digits, SCHEDULE, tmp_path / "again")
    for one, other in zip(first, again, strict=True):
        assert dataclasses.replace(one, seconds={}) == dataclasses.replace(other, seconds={})
    other_seed = run(digits, dataclasses.replace(SCHEDULE, seed=1, rounds=0), tmp_path / "other")
    assert other_seed[0].picks != first[0].picks


def test_a_strategys_picks_do_not_depend_on_the_others(digits: LoopData, tmp_path: Path) -> None:
    together = run(digits, SCHEDULE, tmp_path / "together")
    alone = run(digits, dataclasses.replace(SCHEDULE, strategies=("bait",)), tmp_path / "alone")
    picks = [entry.picks for entry in together if entry.strategy == "bait"]
    assert [entry.picks for entry in alone] == picks


def test_queries_lower_the_objective(digits: LoopData, tmp_path: Path) -> None:
    for entry in run(digits, SCHEDULE, tmp_path):
        if entry.round and entry.strategy != "random":
            objective = entry.query["objective"]
            assert objective[-1] < objective[0]
            assert len(entry.query["scores"]) == 6


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"strategies": ()}, "at least one strategy"),
        ({"strategies": ("best",)}, "strategy must be one of .*; got 'best'"),
        ({"strategies": ("bait", "bait")}, "must differ"),
        ({"initial": 1}, "initial must be at least 2; got 1"),
        ({"per_round": 0}, "per_round must be at least 1; got 0"),
        ({"rounds": -1}, "rounds must be at least 0; got -1"),
        ({"initial": 60, "per_round": 11}, "need 82 pool samples; the pool has 80"),
    ],
)
def test_bad_schedules_are_named(
    digits: LoopData, schedule: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(digits, "cnn_small", dataclasses.replace(SCHEDULE, **schedule), QUICK, QUERY)  # type: ignore[arg-type]


def test_options_unfit_for_the_model_are_found_before_training(digits: LoopData) -> None:
    with pytest.raises(ValueError, match="fewer than the head's 640 parameters"):
        Experiment(digits, "cnn_small", SCHEDULE, QUICK, QueryOptions(fraction=0.002))


def test_a_strategy_that_repeats_itself_is_caught(
    digits: LoopData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeat(*_: object) -> strategies.Picks:
        return strategies.Picks(Tensor([0, 0, 0, 0, 0, 0]).long())

    monkeypatch.setitem(strategies.STRATEGIES, "random", repeat)
    schedule = dataclasses.replace(SCHEDULE, strategies=("random",))
    with pytest.raises(RuntimeError, match="random must return 6 different indices"):
        run(digits, schedule, tmp_path)
