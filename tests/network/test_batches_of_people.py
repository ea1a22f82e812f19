"""Batches as people have them: constants beside samples, labels of any kind, pictures, hooks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fishermask_fast import FisherMask, FisherMaskSelector, masked_gradients
from fishermask_fast.network import find_head

N, D, C = 8, 5, 3


class Keyed(nn.Module):
    """A classifier whose batches hold a constant beside the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D)
        self.fc = nn.Linear(D, C)
        self.gain = nn.Parameter(torch.rand(D))

    def forward(self, mean: Tensor, x: Tensor, mix: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.inner(x - mean.mean(0)) * self.gain)
        if mix is not None:
            h = h * mix.sum(0)[:D]
        logits: Tensor = self.fc(h)
        return logits


def samples() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def with_constants(length: int, mixing: int) -> Callable[[list[Tensor]], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(length, D, generator=generator, dtype=torch.float64)
    mix = torch.rand(mixing, D, generator=generator, dtype=torch.float64)
    return lambda items: {"mean": mean, "x": torch.stack(items), "mix": mix}


@pytest.mark.parametrize(
    ("batch_size", "length", "mixing"), [(4, 4, 3), (3, 3, 2), (8, 8, 8), (5, 1, 2), (1, 1, 3)]
)
def test_constants_are_told_from_samples(
    batch_size: int, length: int, mixing: int, assert_close: Callable[..., None]
) -> None:
    """A constant as long as a batch, or as the last batch, or as the trial, is no sample."""
    torch.manual_seed(0)
    model = Keyed().double()
    collate = with_constants(length, mixing)
    loader = DataLoader(list(samples()), batch_size=batch_size, collate_fn=collate)  # type: ignore[arg-type]
    constants = collate([samples()[0]])
    mask = FisherMask.random(model, n_parameters=40, head=())
    v = masked_gradients(model, loader, mask, weighting="none").dense()
    for i, x in enumerate(samples()):
        log_p = model(constants["mean"], x[None], constants["mix"]).log_softmax(1)[0]
        for c in range(C):
            grads = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
            named = dict(zip(dict(model.named_parameters()), grads, strict=True))
            expected = torch.cat([named[k].flatten()[at] for k, at in mask.indices.items()])
            assert_close(v[i, c].sort().values, expected.sort().values, k=100)
    picks = FisherMaskSelector(model, batch_size=batch_size).query(loader, 3, progress=False)
    assert len(picks) == 3


LABELS: dict[str, Callable[[int], Any]] = {
    "none": lambda i: None,
    "boxes of any number": lambda i: {"boxes": torch.rand(i, 4), "names": ["cat"] * i},
    "texts": lambda i: "x" * i,
    "objects": lambda i: object(),
    "ragged lists": lambda i: [1.0] * i,
}


@pytest.mark.parametrize("kind", list(LABELS))
@pytest.mark.parametrize(("in_dict", "loaded"), [(False, True), (True, False)])
def test_labels_are_never_collated(kind: str, in_dict: bool, loaded: bool) -> None:
    inputs = samples().float()
    items: list[Any] = [(x, LABELS[kind](i)) for i, x in enumerate(inputs)]
    if in_dict:
        mean = torch.zeros(1, D)
        items = [{"x": x, "mean": mean, "labels": label} for x, label in items]
    data: Any = DataLoader(items, batch_size=3) if loaded else items
    model = Keyed() if in_dict else nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, C))
    found = FisherMaskSelector(model).query(data, 2, progress=False)
    plain: Any = [{"x": x, "mean": torch.zeros(1, D)} for x in inputs] if in_dict else inputs
    assert list(found) == list(FisherMaskSelector(model).query(plain, 2, progress=False))


def test_pictures_say_what_is_missing() -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGB", (8, 8)) for _ in range(4)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, C))
    for data in (pictures, [(picture, 0) for picture in pictures]):
        with pytest.raises(TypeError, match=r"PIL images \(Image\).* transform"):
            FisherMaskSelector(model).query(data, 2, progress=False)  # type: ignore[arg-type]


class Remembers(nn.Module):
    """Keeps an activation, as models with hooks for features do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D)
        self.fc = nn.Linear(D, C)
        self.seen: list[Tensor] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.inner(x))
        self.seen.append(self.last)
        self.late = self.last * 2
        logits: Tensor = self.fc(self.last)
        return logits


def test_a_model_is_copied_and_pickled_after_a_query_as_before() -> None:
    model = Remembers()
    with torch.no_grad():
        model(samples().float())
    before = model.last
    assert before is not None
    FisherMaskSelector(model).query(samples().float(), 2, progress=False)
    find_head(model, samples().float())
    FisherMaskSelector(model).estimate(samples().float(), 2)
    assert model.last is before and len(model.seen) == 1 and model.seen[0] is before
    copied = copy.deepcopy(model)
    assert torch.equal(copied.last, before)  # type: ignore[arg-type]
    assert torch.equal(pickle.loads(pickle.dumps(model)).last, before)
