"""The loop on several labels a sample and on a regression: losses, metrics, picks, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, r2_score

from fishermask_fast import FisherMaskSelector
from fishermask_fast.datasets import load_data
from fishermask_fast.loop.records import RunFolder
from fishermask_fast.loop.run import Experiment
from fishermask_fast.loop.run.tasks import TASKS, overall
from fishermask_fast.options import DataOptions, QueryOptions, Recipe, Schedule
from fishermask_fast.strategies import STRATEGIES

DATA = {"multilabel": "bernoulli", "diabetes": "gaussian"}
every = pytest.mark.parametrize("name", DATA)
SCHEDULE = Schedule(strategies=("fishermask", "bait", "random"), initial=20, per_round=10, rounds=2)
RECIPE = Recipe(epochs=30, min_steps=30)
QUERY = QueryOptions(fraction=0.3, keep_head=False)


def test_metrics_are_scikit_learn_s(generator: torch.Generator) -> None:
    z = torch.randn(60, 4, generator=generator)
    y = (torch.rand(60, 4, generator=generator) < 0.4).float()
    task = TASKS["bernoulli"]
    expected = f1_score(y.numpy(), (z > 0).numpy(), average=None)
    np.testing.assert_allclose(task.by_output(z, y).numpy(), expected)
    assert overall(task, z, y) == pytest.approx(expected.mean())
    targets = torch.randn(60, 4, generator=generator)
    task = TASKS["gaussian"]
    expected = r2_score(targets.numpy(), z.numpy(), multioutput="raw_values")
    np.testing.assert_allclose(task.by_output(z, targets).numpy(), expected, rtol=1e-5)
    assert overall(task, z, targets) == pytest.approx(expected.mean(), rel=1e-5)


@every
def test_runs_learn_and_pick_by_their_likelihood(name: str, tmp_path: Path) -> None:
    data = load_data(DataOptions(name=name))
    assert data.likelihood == DATA[name]
    assert data.pool.targets.shape == (len(data.pool), len(data.classes))
    experiment = Experiment(data, "mlp_small", SCHEDULE, RECIPE, QUERY)
    folder = RunFolder(tmp_path / "run", experiment.config())
    rounds = list(experiment.run(folder))
    folder.close()
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["metric"] == TASKS[DATA[name]].metric
    assert config["query"]["likelihood"] == DATA[name]
    assert len(rounds) == 9
    # Far better than answering with the mean, or with no label at all.
    assert min(entry.accuracy for entry in rounds) > 0.1
    picks = {entry.strategy: entry.picks for entry in rounds if entry.round == 1}
    assert picks["fishermask"] != picks["bait"] != picks["random"]


@every
@pytest.mark.parametrize("strategy", ["fishermask", "bait"])
def test_picks_are_the_selector_s(name: str, strategy: str) -> None:
    data = load_data(DataOptions(name=name))
    experiment = Experiment(data, "mlp_small", SCHEDULE, RECIPE, QUERY)
    model = experiment._build(0).eval()
    options = replace(experiment.query, lamb=0.5)
    labeled, pool = data.pool.take(torch.arange(10)), data.pool.take(torch.arange(10, 90))
    found = STRATEGIES[strategy](model, pool, labeled, 6, 0, options)
    mask = {"mask": "head", "backward_steps": 1} if strategy == "bait" else {"fraction": 0.3}
    selector = FisherMaskSelector(
        model, lamb=0.5, likelihood=DATA[name], keep_head=False, seed=0, **mask
    )
    expected = selector.query(pool, 6, labeled, progress=False)
    assert found.indices.tolist() == expected.indices.tolist()


@every
@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"fishermask", "bait", "random"}))
def test_strategies_of_classes_are_refused(name: str, strategy: str) -> None:
    data = load_data(DataOptions(name=name))
    schedule = replace(SCHEDULE, strategies=(strategy,))
    with pytest.raises(ValueError, match=f"{strategy} is for one class.*fishermask, bait, random"):
        Experiment(data, "mlp_small", schedule, RECIPE, QUERY)


@every
def test_what_needs_classes_is_refused(name: str) -> None:
    data = load_data(DataOptions(name=name))
    with pytest.raises(ValueError, match=f"likelihood must be that of the data, {DATA[name]}"):
        Experiment(data, "mlp_small", SCHEDULE, RECIPE, replace(QUERY, likelihood="categorical"))
    with pytest.raises(ValueError, match="stratified initial_draw needs one class"):
        stratified = replace(SCHEDULE, initial_draw="stratified")
        Experiment(data, "mlp_small", stratified, RECIPE, QUERY)
    with pytest.raises(ValueError, match=f"for data of one class a sample; {name}"):
        load_data(DataOptions(name=name, imbalance_ratio=5.0))
