"""Tensors made from parameters before a query, wherever kept: never zeros without a word."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fishermask_fast import FisherMaskSelector, fisher_diagonal, inspect_model
from fishermask_fast.gradients.kept import trace_past_kept_tensors
from fishermask_fast.network import evaluating

D, H, C = 5, 8, 3


class Fused(nn.Module):
    """logits = W tanh(x (a g)^T) + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.rand(H) + 0.5)
        self.out = nn.Linear(H, C)

    def made(self) -> Tensor:
        return self.a * self.g[:, None]

    def weight(self, n: int) -> Tensor:
        return self.made()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out((x @ self.weight(len(x)).T).tanh())
        return logits


class Attribute(Fused):
    kept: Tensor | None = None

    def weight(self, n: int) -> Tensor:
        if self.kept is None:
            self.kept = self.made()
        return self.kept


class Buffer(Fused):
    kept: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", None, persistent=False)

    weight = Attribute.weight


class Cached(Fused):
    @functools.lru_cache  # noqa: B019
    def weight(self, n: int) -> Tensor:
        return self.made()


class BySize(Fused):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Tensor] = {}

    def weight(self, n: int) -> Tensor:
        if n not in self.kept:
            self.kept[n] = self.made()
        return self.kept[n]


class OfTheClass(Fused):
    kept: list[tuple[nn.Module, Tensor]] = []  # noqa: RUF012

    def weight(self, n: int) -> Tensor:
        for model, kept in self.kept:
            if model is self:
                return kept
        self.kept.append((self, self.made()))
        return self.weight(n)


EVERYWHERE: dict[int, tuple[nn.Module, Tensor]] = {}


class Global(Fused):
    def weight(self, n: int) -> Tensor:
        if id(self) not in EVERYWHERE:
            EVERYWHERE[id(self)] = self, self.made()
        return EVERYWHERE[id(self)][1]


class Closure(Fused):
    def __init__(self) -> None:
        super().__init__()
        kept: Tensor | None = None

        def weight() -> Tensor:
            nonlocal kept
            if kept is None:
                kept = self.made()
            return kept

        self.give = weight

    def weight(self, n: int) -> Tensor:
        return self.give()


class Box:
    __slots__ = ("kept",)
    kept: Tensor | None

    def __init__(self) -> None:
        self.kept = None


class Slots(Fused):
    def __init__(self) -> None:
        super().__init__()
        self.box = Box()

    def weight(self, n: int) -> Tensor:
        if self.box.kept is None:
            self.box.kept = self.made()
        return self.box.kept


class AView(Attribute):
    """Of the parameter itself, with its memory."""

    def made(self) -> Tensor:
        return self.a.view(H, D)


class Times(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T


class Given(Attribute):
    """To a layer that multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.times = Times()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.times(x, weight=self.weight(len(x))).tanh())
        return logits


KINDS = (
    Attribute, Buffer, Cached, BySize, OfTheClass, Global, Closure, Slots, AView, Given,
)  # fmt: skip


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.rand(H) + 0.5)

    def forward(self) -> Tensor:
        return self.a * self.g[:, None]


class MadeByAPart(Attribute):
    """A part that no forward calls once its product is kept."""

    def __init__(self) -> None:
        super().__init__()
        del self.a, self.g
        self.maker = Product()

    def made(self) -> Tensor:
        made: Tensor = self.maker()
        return made


class MadeByAPartAndGiven(MadeByAPart):
    def __init__(self) -> None:
        super().__init__()
        self.times = Times()

    forward = Given.forward


def pool() -> Tensor:
    return torch.randn(12, D, generator=torch.Generator().manual_seed(0))


def warmed(kind: type[nn.Module], inside: bool = False) -> nn.Module:
    """A model that was evaluated, on batches of every size."""
    torch.manual_seed(1)
    model: nn.Module = kind()
    if inside:
        model = nn.Sequential(nn.Identity(), model, nn.Tanh())
    model.eval()
    with torch.no_grad():
        for n in range(1, 13):
            model(pool()[:n])
    return model


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_kept_before_is_refused_by_name(kind: type[Fused], inside: bool) -> None:
    model = warmed(kind, inside)
    name = "1.a" if inside else "a"
    for ask in (
        lambda: fisher_diagonal(model, pool()),
        lambda: FisherMaskSelector(model, n_parameters=60).query(pool(), 6, progress=False),
        lambda: inspect_model(model, pool()),
    ):
        with pytest.raises(ValueError, match=rf"{name}\b.*requires_grad_\(False\)"):
            ask()
    for part in model.modules():
        for each in part.parameters(recurse=False) if isinstance(part, Fused) else ():
            each.requires_grad_(False)
    assert set(fisher_diagonal(model, pool())) == {
        f"{'1.' if inside else ''}out.{each}" for each in ("weight", "bias")
    }


@pytest.mark.parametrize("kind", [MadeByAPart, MadeByAPartAndGiven])
def test_what_a_part_made_before_is_warned_of(kind: type[Fused]) -> None:
    model = warmed(kind)
    with pytest.warns(UserWarning, match=r"no way leads.*to maker\.a, maker\.g"):
        fisher_diagonal(model, pool())
    with pytest.warns(UserWarning, match=r"maker\.a"):
        FisherMaskSelector(model, n_parameters=60).query(pool(), 6, progress=False)
    with pytest.warns(UserWarning, match=r"maker\.a"):
        inspect_model(model, pool())


def unused_beside_nothing() -> nn.Module:
    """As a mask token of a model that is given no mask."""
    model = Fused()
    model.token = nn.Parameter(torch.randn(D))
    return model


def unused_beside_batch_norm() -> nn.Module:
    model = unused_beside_nothing()
    model.out = nn.Sequential(nn.BatchNorm1d(H), nn.Linear(H, C))
    return model


class Unreached(Fused):
    """As a pooler whose result nobody takes, beside constants of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.pooler, self.scale = nn.Linear(H, H), torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = (x * self.scale @ self.weight(len(x)).T).tanh()
        self.pooler(h)
        logits: Tensor = self.out(h) + torch.tensor([1.0, 2.0, 3.0])
        return logits


class NotCalled(Fused):
    """As the auxiliary heads of GoogLeNet, beside positions that another part adds."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Linear(H, H), nn.Linear(H, C))
        self.positions = Positions()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.positions(x))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(D), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class DataOfIt(Fused):
    """Cut off by the model's own will, at every forward."""

    def made(self) -> Tensor:
        return self.a.data * self.g.detach()[:, None]


@pytest.mark.parametrize(
    "make", [unused_beside_nothing, unused_beside_batch_norm, Unreached, NotCalled, DataOfIt]
)
def test_what_is_truly_unused_is_no_news(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = fisher_diagonal(model, pool())
    unused = [n for n in found if n.startswith(("token", "pooler", "aux"))]
    assert unused or make is DataOfIt
    assert all(not found[name].any() for name in unused)


def test_auxiliary_heads_of_googlenet_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    from torchvision.models import GoogLeNet

    model = GoogLeNet(num_classes=C, init_weights=False, transform_input=True)
    names = [name for name, _ in model.named_parameters() if "aux" in name or "fc" in name]
    with warnings.catch_warnings(), evaluating(model) as net, caplog.at_level("WARNING"):
        warnings.simplefilter("error", UserWarning)
        traced = trace_past_kept_tensors(net, torch.rand(2, 3, 32, 32), names)
    assert set(traced.lost) == {name for name in names if "aux" in name}
    assert "aux1" in caplog.text


def test_an_unused_parameter_among_constants_is_asked_about_and_can_be_left_out() -> None:
    """Nothing tells it from one that a constant was made of."""
    model = Unreached()
    model.token = nn.Parameter(torch.randn(D))
    with pytest.raises(ValueError, match=r"token, .*requires_grad_\(False\)"):
        fisher_diagonal(model, pool())
    model.token.requires_grad_(False)
    assert "token" not in fisher_diagonal(model, pool())
