"""From a model and a pool to a batch, against the formulas in float64."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fishermask_fast import StoredFactors, reference
from fishermask_fast.masks.mask import FisherMask
from fishermask_fast.selector import FisherMaskSelector, course

N_POOL, N_LABELED, N_SELECT, FEATURES, CLASSES = 40, 15, 6, 6, 3
FRACTION = 0.6


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES, bias=False)
        ).to(dtype)


def make_inputs(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, FEATURES, generator=generator, dtype=torch.float64)


@pytest.fixture(name="pool")
def some_inputs() -> Tensor:
    return make_inputs(N_POOL, 1)


@pytest.fixture
def labeled() -> Tensor:
    return make_inputs(N_LABELED, 2)


def log_gradients(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) and grad log p_c over all parameters (N, C, P), by autograd alone."""
    parameters = list(model.parameters())
    rows, probabilities = [], []
    for x in inputs:
        log_p = model(x[None]).log_softmax(1)[0]
        probabilities.append(log_p.detach().exp())
        for value in log_p:
            parts = torch.autograd.grad(value, parameters, retain_graph=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(probabilities), torch.stack(rows).view(len(inputs), CLASSES, -1)


def whole_rows(model: nn.Module, inputs: Tensor, weighting: str = "fisher") -> Tensor:
    p, g = log_gradients(model, inputs)
    return p.sqrt()[..., None] * g if weighting == "fisher" else g


def columns(mask: FisherMask) -> Tensor:
    """Positions of the masked entries among all parameters, in order."""
    found, start = [], 0
    for name, shape in mask.shapes.items():
        if name in mask.indices:
            found.append(mask.indices[name] + start)
        start += torch.Size(shape).numel()
    return torch.cat(found)


def mean_gram(v: Tensor) -> Tensor:
    return torch.einsum("nrk,nrl->kl", v, v) / len(v)


@pytest.mark.parametrize("weighting", ["fisher", "none"])
@pytest.mark.parametrize("backward_steps", [0, 1])
def test_query_is_the_formulas_one_after_the_other(
    pool: Tensor,
    labeled: Tensor,
    weighting: str,
    backward_steps: int,
    assert_close: Callable[..., None],
) -> None:
    model = make_model()
    query = FisherMaskSelector(
        model, fraction=FRACTION, weighting=weighting, lamb=0.5, backward_steps=backward_steps
    )
    selection = query.query(pool, N_SELECT, labeled, progress=False)

    both = torch.cat([labeled, pool])
    diagonal = whole_rows(model, both).square().sum(1).mean(0)
    n_parameters = diagonal.numel()
    head = torch.arange(n_parameters - 5 * CLASSES, n_parameters)
    rest = diagonal[: -5 * CLASSES].sort(descending=True, stable=True).indices
    k = int(FRACTION * n_parameters)
    expected = torch.cat([rest[: k - len(head)].sort().values, head])
    assert columns(query.mask_).tolist() == expected.tolist()

    v_pool = whole_rows(model, pool, weighting)[..., expected]
    v_labeled = whole_rows(model, labeled, weighting)[..., expected]
    fisher = mean_gram(torch.cat([v_pool, v_labeled]))
    assert_close(query.fisher_, fisher, k=N_POOL * CLASSES)
    assert query.labeled_fisher_ is not None
    assert_close(query.labeled_fisher_, mean_gram(v_labeled), k=N_LABELED * CLASSES)
    indices, _ = reference.select(
        v_pool,
        N_SELECT,
        fisher,
        mean_gram(v_labeled),
        lamb=0.5,
        n_labeled=N_LABELED,
        backward_steps=backward_steps,
    )
    assert selection.indices.tolist() == indices


def test_without_labeled_samples_fisher_is_the_pools(
    pool: Tensor, assert_close: Callable[..., None]
) -> None:
    model = make_model()
    query = FisherMaskSelector(model, fraction=1.0)
    selection = query.query(pool, N_SELECT, progress=False)
    v = whole_rows(model, pool)
    assert_close(query.fisher_, mean_gram(v), k=N_POOL * CLASSES)
    assert query.labeled_fisher_ is None
    assert selection.indices.tolist() == reference.select(v, N_SELECT)[0]
    empty = query.query(pool, N_SELECT, pool[:0], progress=False)
    assert empty.indices.tolist() == selection.indices.tolist()


class Samples(Dataset[tuple[Tensor, int]]):
    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], index % CLASSES


@pytest.mark.parametrize(
    "wrap",
    [
        Samples,
        TensorDataset,
        lambda x: DataLoader(Samples(x), batch_size=7, shuffle=True),
        lambda x: DataLoader(TensorDataset(x), batch_size=64, drop_last=True),
    ],
    ids=["dataset", "without labels", "shuffling loader", "loader that drops"],
)
def test_every_form_of_data_gives_the_tensors_picks(
    pool: Tensor, labeled: Tensor, wrap: Callable[[Tensor], Any]
) -> None:
    query = FisherMaskSelector(make_model(), fraction=FRACTION, fisher_samples=20)
    expected = query.query(pool, N_SELECT, labeled, progress=False).indices.tolist()
    found = query.query(wrap(pool), N_SELECT, wrap(labeled), progress=False).indices.tolist()
    assert found == expected
    mixed = query.query(wrap(pool), N_SELECT, labeled, progress=False).indices.tolist()
    assert mixed == expected


def test_gradients_in_a_file_give_the_same_picks(
    pool: Tensor, labeled: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = FisherMaskSelector(make_model(), fraction=FRACTION)
    expected = query.query(pool, N_SELECT, labeled, progress=False)
    out = tmp_path / "pool.safetensors"
    found = query.query(pool, N_SELECT, labeled, progress=False, out=out)
    assert torch.equal(found.indices, expected.indices)
    assert len(StoredFactors(out)) == N_POOL
    written = out.read_bytes()
    again = query.query(pool, N_SELECT, labeled, progress=False, out=out)
    assert torch.equal(again.indices, expected.indices) and out.read_bytes() == written
    with pytest.raises(ValueError, match="holds other gradients"):
        query.query(pool[:30], N_SELECT, labeled, progress=False, out=out)


def test_the_seed_draws_the_samples_of_the_mask(pool: Tensor, labeled: Tensor) -> None:
    def mask(seed: int) -> FisherMask:
        query = FisherMaskSelector(make_model(), fraction=FRACTION, fisher_samples=3, seed=seed)
        query.query(pool, 2, labeled, progress=False)
        return query.mask_

    masks = [mask(seed) for seed in range(4)]
    assert mask(0) == masks[0]
    assert any(other != masks[0] for other in masks[1:])


def test_bait_is_the_head_with_backward_steps(pool: Tensor) -> None:
    model = make_model()
    query = FisherMaskSelector(model, mask="head", backward_steps=1)
    selection = query.query(pool, N_SELECT, progress=False)
    assert query.mask_ == FisherMask.head(model)
    v = whole_rows(model, pool)[..., -5 * CLASSES :]
    assert selection.indices.tolist() == reference.select(v, N_SELECT, backward_steps=1)[0]
    assert len(selection.dropped) == N_SELECT


@pytest.mark.parametrize("method", ["per_layer", "relative", "random"])
def test_other_masks(pool: Tensor, method: str) -> None:
    model = make_model()
    query = FisherMaskSelector(model, fraction=0.3, mask=method)
    selection = query.query(pool, N_SELECT, progress=False)
    assert query.mask_.method == method
    v = whole_rows(model, pool)[..., columns(query.mask_)]
    assert selection.indices.tolist() == reference.select(v, N_SELECT)[0]
    if method == "random":
        assert query.mask_ == FisherMask.random(model, 0.3)


def test_a_mask_made_before_is_used_as_it_is(pool: Tensor) -> None:
    model = make_model()
    mask = FisherMask.random(model, 0.2, seed=5)
    query = FisherMaskSelector(model, mask=mask)
    query.query(pool, N_SELECT, progress=False)
    assert query.mask_ is mask


def test_the_model_and_the_random_state_are_left_alone(pool: Tensor, labeled: Tensor) -> None:
    model = make_model().train()
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, inputs = torch.get_rng_state(), pool.clone()
    FisherMaskSelector(model, fraction=FRACTION).query(pool, 2, labeled, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pool, inputs)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_seconds_of_each_step(pool: Tensor, labeled: Tensor) -> None:
    query = FisherMaskSelector(make_model(), fraction=FRACTION)
    query.query(pool, 2, labeled, progress=False)
    assert set(query.seconds_) == {"mask", "gradients", "fisher", "selection"}
    assert all(value > 0 for value in query.seconds_.values())


def test_progress_without_tqdm_goes_on_and_says_so(
    pool: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        FisherMaskSelector(make_model(), fraction=FRACTION).query(pool, 2, progress=True)
    assert "tqdm" in caplog.text
