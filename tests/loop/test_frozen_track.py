"""The frozen track of benchmarks/experiments: its head, its draws, its records and its tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

from benchmarks.experiments.frozen import report, run
from fishermask_fast.loop.records import ROUNDS_FILE
from fishermask_fast.loop.report.analysis import read_study

EXPERIMENT = """
seeds = [0, 1, 2]
[settings.even]
data = "clumps"
test = 10
pool = 20
initial = 6
per_round = 5
rounds = 2
[settings.tail]
data = "clumps"
test = 10
pool = 30
tail = 5.0
components = 2
initial = 6
per_round = 5
rounds = 2
balanced_training = true
[strategies.recipe]
strategy = "fishermask_coverage"
[strategies.random]
strategy = "random"
[strategies.relative]
strategy = "bait"
options = { lamb = "auto", eval_weights = "balanced" }
"""


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = generator.normal(size=(120, 4)) + np.eye(4)[y]
    np.savez(folder / "clumps.npz", x=x.astype(np.float32), y=y, classes=np.array(list("abc")))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    return folder


def start(features: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["run.py", str(features / "experiment.toml"), "--features", str(features)]
    monkeypatch.setattr("sys.argv", [*given, "--out", str(out)])
    run.main()


@pytest.fixture(scope="module")
def done(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        start(features, out, patch)
    return out


@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_is_the_logistic_one(balanced: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 5), torch.arange(60).sqrt().long() % 4
    head, _ = run.fit_head(x, y, 4, balanced)
    ones = torch.cat([x, torch.ones(60, 1)], 1)
    theirs = LogisticRegression(
        C=1.0,
        fit_intercept=False,
        tol=1e-8,
        max_iter=1000,
        class_weight="balanced" if balanced else None,
    ).fit(ones, y)
    weight = torch.cat([head.weight, head.bias[:, None]], 1).detach().numpy()
    np.testing.assert_allclose(weight, theirs.coef_, atol=2e-4)


def test_a_class_without_labels_has_its_optimum() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 3).double(), torch.arange(20) % 2
    head, loss = run.fit_head(x.float(), y, 3, False)
    w = torch.cat([head.weight, head.bias[:, None]], 1).detach().double().requires_grad_()
    z = torch.cat([x.float().double(), torch.ones(20, 1)], 1) @ w.T
    value = torch.nn.functional.cross_entropy(z, y, reduction="sum") + w.square().sum() / 2
    (slope,) = torch.autograd.grad(value, w)
    assert float(slope.abs().max()) < 1e-3
    assert value.item() == pytest.approx(loss, rel=1e-6)


def test_pools_are_of_the_sizes_asked_for_and_apart_from_the_test(features: Path) -> None:
    setting = run.Setting("clumps", test=10, pool=30, tail=5.0)
    own, again = (run.split(setting, features, 4) for _ in range(2))
    assert torch.equal(own.x, again.x) and torch.equal(own.test_y, again.test_y)
    assert sorted(own.y.bincount().tolist()) == [6, 13, 30]
    assert own.test_y.bincount().tolist() == [10, 10, 10]
    rows = {tuple(row) for row in own.x.tolist()}
    assert len(rows) == 49 and rows.isdisjoint(tuple(row) for row in own.test_x.tolist())
    # The pool's columns have mean 0 and deviation 1, with what the test set is left out.
    assert torch.allclose(own.x.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(own.x.square().mean(0), torch.ones(4), atol=1e-5)
    with pytest.raises(ValueError, match="40 samples of class"):
        run.split(run.Setting("clumps", test=11, pool=30), features, 0)


def test_components_are_the_pools_with_one_scale() -> None:
    generator = np.random.default_rng(0)
    pool, test = generator.normal(size=(2, 50, 6)) * np.arange(1, 7)
    x, other = (each.numpy() for each in run.scaled(pool, test, 3))
    centred = pool - pool.mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    scale = np.sqrt(np.square(centred @ v[:3].T).mean())
    np.testing.assert_allclose(np.abs(x), np.abs(centred @ v[:3].T) / scale, atol=1e-5)
    np.testing.assert_allclose(np.abs(other), np.abs((test - pool.mean(0)) @ v[:3].T) / scale,
                               atol=1e-5)  # fmt: skip


def test_strategies_share_what_is_drawn_and_pick_apart(done: Path) -> None:
    for setting in ("even", "tail"):
        study = read_study([done / setting], "random")
        assert study.strategies == ["recipe", "random", "relative"]
        assert len(study.rounds) == 3 * 3 * 3
        for seed in range(3):
            first = {tuple(e.picks) for e in study.rounds if e.seed == seed and e.round == 0}
            later = {tuple(e.picks) for e in study.rounds if e.seed == seed and e.round == 1}
            assert len(first) == 1 and len(later) == 3
        starts = {tuple(e.picks) for e in study.rounds if e.round == 0}
        assert len(starts) == 3


def test_a_run_that_was_stopped_ends_with_the_same_records(
    features: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    shutil.rmtree(out / "tail" / "seed2")
    record = out / "even" / "seed1" / ROUNDS_FILE
    record.write_bytes(b"\n".join(record.read_bytes().split(b"\n")[:4]) + b'\n{"strat')
    start(features, out, monkeypatch)
    for path in sorted(done.rglob(ROUNDS_FILE)):
        ours, theirs = (
            [(e.strategy, e.round, e.picks, e.accuracy) for e in read_study([each]).rounds]
            for each in (path.parent, (out / path.relative_to(done)).parent)
        )
        assert ours == theirs


def test_holm_steps_down() -> None:
    assert report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert report.holm([0.6, 0.9]) == [1.0, 1.0]


def test_the_report_is_of_paired_tests(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", str(done)])
    report.main()
    text = (done / "report.md").read_text()
    assert text.count("###") == 2 and "**recipe**" in text
    assert {path.name for path in done.glob("*.png")} == {
        "curves-even.png", "curves-tail.png", "penalties.png",
    }  # fmt: skip
    study = read_study([done / "even"], "random")
    found = {each.baseline: each for each in report.compare(study, "recipe")}
    ours, theirs = (
        np.array(list(report.areas(study, name).values())) for name in ("recipe", "random")
    )
    against = found["random"]
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(1 - 0.05 / 2)
    assert against.mean - against.half == pytest.approx(low)
    assert against.mean + against.half == pytest.approx(high)
    assert against.p >= stats.wilcoxon(ours, theirs).pvalue
    assert against.n_better == int((ours > theirs).sum())


def test_penalties_count_what_a_paired_t_test_tells_apart(done: Path) -> None:
    study = read_study([done / "even"], "random")
    names = study.strategies
    found = report.penalties([study], names)
    expected = np.zeros((3, 3))
    for i, ours in enumerate(names):
        for j, theirs in enumerate(names):
            for number in (1, 2):
                a, b = (
                    [e.accuracy for e in study.of(name) if e.round == number]
                    for name in (ours, theirs)
                )
                if np.std(np.subtract(a, b)) and i != j:
                    test = stats.ttest_rel(a, b)
                    expected[i, j] += (test.pvalue < 0.05 and test.statistic > 0) / 2
                elif np.mean(np.subtract(a, b)) > 0:
                    expected[i, j] += 1 / 2
    np.testing.assert_allclose(found, expected)
