"""What a model's report tells, and the warnings of a query, each with its own kind of model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from fishermask_fast import FisherMaskSelector, inspect_model
from fishermask_fast.likelihoods import likelihood_of

D, C = 5, 4


class Ending(nn.Module):
    """A small network with something done to its logits."""

    def __init__(
        self, end: Callable[[Tensor], Tensor] = lambda z: z, n: int = C, kind: str | None = None
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, 6), nn.Tanh())
        self.fc = nn.Linear(6, n)
        self.end = end
        if kind is not None:
            self.config = SimpleNamespace(problem_type=kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(self.body(x)))


class Meeting(nn.Module):
    """Samples of a batch change each other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc((x - x.mean(0)) * 3)
        return logits + x.mean()


def samples(n: int = 12) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


WRONG: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "softmax left on": (lambda: Ending(lambda z: z.softmax(1)), "are probabilities .* softmax"),
    "softmax by hand": (
        lambda: Ending(lambda z: z.exp() / z.exp().sum(1, keepdim=True)),
        "are probabilities",
    ),
    "sigmoid left on": (lambda: Ending(torch.sigmoid), "through a sigmoid.*bernoulli"),
    "a multi-label configuration": (
        lambda: Ending(kind="multi_label_classification"),
        'problem_type=.*likelihood="bernoulli"',
    ),
    "a regression configuration": (
        lambda: Ending(kind="regression"),
        'problem_type=.*likelihood="gaussian"',
    ),
    "dropout that stays on": (lambda: Ending(F.dropout), "two passes .* dropout"),
    "noise": (lambda: Ending(lambda z: z + torch.randn_like(z)), "two passes .* noise"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_outputs_that_are_no_logits(kind: str) -> None:
    torch.manual_seed(0)
    make, message = WRONG[kind]
    model = make()
    report = inspect_model(model, samples())
    assert sum(bool(re.search(message, text)) for text in report.warnings) == 1
    assert re.search(message, repr(report)) and not report.ok
    with pytest.warns(UserWarning, match=message):
        FisherMaskSelector(model).query(samples(), 2, progress=False)


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "logits": Ending,
    "log-probabilities": lambda: Ending(lambda z: z.log_softmax(1)),
    "positive logits": lambda: Ending(lambda z: z.relu() / 9),
    "a single-label configuration": lambda: Ending(kind="single_label_classification"),
    "dropout that goes off": lambda: nn.Sequential(Ending(), nn.Dropout(0.5)),
}


@pytest.mark.parametrize("kind", list(RIGHT))
def test_nothing_is_said_of_a_model_that_is_right(kind: str) -> None:
    torch.manual_seed(0)
    model = RIGHT[kind]()
    report = inspect_model(model, samples())
    assert report.ok, report.warnings
    assert report.batch_error < 1e-5 and report.rule_error < 1e-5 and report.slow == ()
    assert report.n_head == 7 * C and report.outputs == (3, C)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FisherMaskSelector(model).query(samples(), 2, progress=False)


def test_samples_that_change_each_other() -> None:
    report = inspect_model(Meeting(), samples())
    assert report.batch_error > 0.05
    assert any("samples of a batch change each other" in text for text in report.warnings)


def test_what_goes_the_slow_way_is_named() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.rand(D) + 1)
            self.fc = nn.Linear(D, C)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x.abs() ** self.power)
            return logits

    report = inspect_model(Crossed(), samples())
    assert "power" in report.slow and "fc.weight" not in report.slow
    assert "torch.func" in repr(report) and report.head == "fc"


def test_the_likelihood_is_the_one_given() -> None:
    report = inspect_model(Ending(), samples(), likelihood="bernoulli")
    assert report.ok and report.rule_error < 1e-5
    assert likelihood_of("bernoulli").name == "bernoulli"


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda z: z[:, 0], "at least two classes .*bernoulli"),
        (lambda z: z[:, :1], "at least two classes .*bernoulli"),
        (lambda z: z[:, :, None, None].expand(-1, -1, 3, 3), "each pixel, as segmentation"),
        (lambda z: z[:, :, None].expand(-1, -1, 3), "each token or place"),
        (lambda z: {"out": z}, "each pixel as segmentation"),
        (lambda z: [{"boxes": z, "scores": z}], "boxes and scores as detection"),
    ],
)
def test_other_outputs_are_named(end: Callable[[Tensor], Tensor], message: str) -> None:
    model = Ending(end)
    for ask in (
        lambda: inspect_model(model, samples()),
        lambda: FisherMaskSelector(model).query(samples(), 2, progress=False),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            ask()


def test_a_model_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match="Ending does not take these samples"):
        inspect_model(Ending(), torch.randn(3, D + 1))


class Augmented(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if index >= 8:
            raise IndexError(index)
        return samples(8)[index] + 0.1 * torch.randn(D)


def test_a_random_transform() -> None:
    with pytest.warns(UserWarning, match="read twice differs: the dataset's transform is random"):
        FisherMaskSelector(Ending()).query(Augmented(), 2, progress=False)


@pytest.mark.parametrize("normalised", [True, False])
def test_pixels_of_0_to_255(normalised: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, C))
    pixels = torch.randint(256, (8, 3, 8, 8)).float()
    if normalised:
        norm.running_mean.fill_(127.0)  # type: ignore[union-attr]
        norm.running_var.fill_(5000.0)  # type: ignore[union-attr]
    found = [text for text in inspect_model(model, pixels).warnings if "as pixels do" in text]
    assert len(found) == (0 if normalised else 1)
    plain = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, C))
    with torch.no_grad():
        plain[3].weight.mul_(40)
    assert any("as pixels do" in text for text in inspect_model(plain, pixels).warnings)
    assert not any("as pixels do" in t for t in inspect_model(plain, pixels / 255).warnings)
