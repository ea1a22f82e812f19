"""Modules that keep tensors made from their parameters: the gradients are right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import some_of_each
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parametrizations, parametrize

from fishermask_fast import FisherMask, FisherMaskSelector, fisher_diagonal
from fishermask_fast.gradients import slow_parameters
from fishermask_fast.gradients.masked import masked_gradients


class Net(nn.Module):
    """logits = W_2 tanh(W_1 x + g(theta)[places]), theta = self.bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.bias = nn.Parameter(torch.randn(3))
        self.places = torch.tensor([0, 1, 2, 2, 1, 0])

    def made(self) -> Tensor:
        return self.bias.exp()[self.places]

    def table(self) -> Tensor:
        return self.made()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.first(x) + self.table()))
        return logits


class WhileInEvalMode(Net):
    """As LeViT: a dict that train() empties, filled where it is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def train(self, mode: bool = True) -> WhileInEvalMode:
        super().train(mode)
        if mode and self.kept:
            self.kept = {}
        return self

    def table(self) -> Tensor:
        if self.training:
            return self.made()
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.made()
        return self.kept["cpu"]


class MadeByTrainFalse(Net):
    """As LeViT's first code: made once, without gradients, by train(False)."""

    @torch.no_grad()
    def train(self, mode: bool = True) -> MadeByTrainFalse:
        super().train(mode)
        if mode and hasattr(self, "kept"):
            del self.kept
        elif not mode:
            self.kept = self.made()
        return self

    def table(self) -> Tensor:
        return self.made() if self.training else self.kept


class NeverDropped(Net):
    """Filled by the first forward in eval mode and kept for good."""

    kept: Tensor | None = None

    def table(self) -> Tensor:
        if self.training:
            return self.made()
        if self.kept is None:
            self.kept = self.made()
        return self.kept


class InABuffer(Net):
    kept: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", None)

    table = NeverDropped.table


class WhateverTheMode(Net):
    """Kept in either mode: there is no way around it."""

    kept: Tensor | None = None

    def table(self) -> Tensor:
        if self.kept is None:
            self.kept = self.made()
        return self.kept


class MadeAtOnce(Net):
    """Made in __init__, with the graph of then."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = self.made()

    def table(self) -> Tensor:
        return self.kept


class Merged(Net):
    """As LoRA: a weight into which eval mode merges the parameter, with dropout beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("base", torch.randn(6))
        self.merged = False

    @torch.no_grad()
    def train(self, mode: bool = True) -> Merged:
        super().train(mode)
        if mode == self.merged:
            self.base += -self.made() if mode else self.made()
            self.merged = not mode
        return self

    def table(self) -> Tensor:
        if not self.training:
            assert isinstance(self.base, Tensor)
            return self.base
        return self.base + F.dropout(self.made(), 0.5, training=True)


PASSED_BY = (WhileInEvalMode, MadeByTrainFalse, NeverDropped, InABuffer)
REFUSED = (WhateverTheMode, MadeAtOnce, Merged)


def prepared(kind: type[Net], state: str) -> Net:
    """A model as it may come: new, in eval mode, or after forwards in eval mode."""
    torch.manual_seed(1)
    model = kind()
    if state != "new":
        model.eval()
    if state == "used":
        model(torch.randn(2, 4))
    if state == "used without gradients":
        with torch.no_grad():
            model(torch.randn(2, 4))
    return model


STATES = ("new", "eval", "used", "used without gradients")


def jacobian(model: Net, x: Tensor) -> Tensor:
    """(N, C, 3) of theta, of the same model that keeps nothing."""
    plain = Net()
    plain.load_state_dict(model.state_dict(), strict=False)
    values = {name: p.detach() for name, p in plain.named_parameters()}

    def logits(bias: Tensor, one: Tensor) -> Tensor:
        found: Tensor = functional_call(plain, values | {"bias": bias}, (one[None],))[0]
        return found

    return vmap(jacrev(logits), (None, 0))(values["bias"], x)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", PASSED_BY)
def test_what_is_kept_in_eval_mode_is_passed_by(kind: type[Net], state: str) -> None:
    model, x = prepared(kind, state), torch.randn(5, 4)
    mode = model.training
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    mask = FisherMask(shapes, {"bias": torch.arange(3)}, "test", ())
    found = masked_gradients(model, x, mask, weighting="none").dense()
    log_p = jacobian(model, x)
    expected = log_p - torch.einsum(
        "nc,nck->nk", model.eval()(x).softmax(1).detach(), log_p
    ).unsqueeze(1)
    torch.testing.assert_close(found, expected)
    diagonal = fisher_diagonal(model.train(mode), x)["bias"]
    assert (diagonal > 0).all()
    assert model.training == mode
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_kept_in_any_mode_is_refused_by_name(kind: type[Net], state: str) -> None:
    if state.startswith("used") and kind is WhateverTheMode:
        pytest.skip("what the user's own forward left is never dropped: see below")
    model, x = prepared(kind, state), torch.randn(5, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"depend on bias by way of tensors that the model keeps"):
        fisher_diagonal(model, x)
    with pytest.raises(ValueError, match=r"depend on bias .* requires_grad_\(False\)"):
        masked_gradients(model, x, some_of_each(model))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    model.bias.requires_grad_(False)
    assert set(fisher_diagonal(model, x)) == {
        "first.weight", "first.bias", "head.weight", "head.bias"
    }  # fmt: skip


def test_what_the_users_own_forward_left_for_good_is_refused() -> None:
    """The logits do not depend on theta any more, but are made of its table."""
    model, x = prepared(WhateverTheMode, "used without gradients"), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"do not depend on bias, but their module uses tensors"):
        fisher_diagonal(model, x)


def test_a_parameter_that_no_forward_reads_is_said_to_be_unused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(5, 4)
    model.register_parameter("bias", nn.Parameter(torch.randn(3)))
    with caplog.at_level("WARNING"):
        assert (fisher_diagonal(model, x)["bias"] == 0).all()
    assert "no way leads from the logits to bias: zeros" in caplog.text


@pytest.mark.parametrize("kind", [*PASSED_BY, WhateverTheMode])
def test_nothing_is_left_behind(kind: type[Net]) -> None:
    model = prepared(kind, "new").train(False) if kind is not WhateverTheMode else kind()
    model(torch.randn(1, 4)) if kind is WhileInEvalMode else None
    if kind is WhateverTheMode:
        with pytest.raises(ValueError, match="bias"):
            fisher_diagonal(model, torch.randn(5, 4))
    else:
        fisher_diagonal(model, torch.randn(5, 4))
    x = torch.randn(2, 4, requires_grad=True)
    model(x).sum().backward()  # by a table of this moment, not by one of a graph that is gone
    assert x.grad is not None


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.orthogonal, parametrizations.spectral_norm],
)
def test_inside_parametrize_cached(wrap: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(5, 4)
    expected = fisher_diagonal(model, x)
    with parametrize.cached():
        model.eval()(x)
        found = fisher_diagonal(model, x)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


def test_levit_of_transformers() -> None:
    from transformers import LevitConfig, LevitForImageClassification

    config = LevitConfig(
        image_size=32, hidden_sizes=[16, 16, 16], num_attention_heads=[2, 2, 2], depths=[1, 1, 1],
        key_dim=[8, 8, 8], mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2], num_labels=3,
    )  # fmt: skip
    model: Any = LevitForImageClassification(config).double().eval()
    found = fisher_diagonal(model, torch.randn(4, 3, 32, 32))
    # Of one place alone the softmax is 1 whatever its bias.
    tables = {n: v for n, v in found.items() if n.endswith("attention_biases") and v.shape[1] > 1}
    assert len(tables) == 2
    assert all((values > 0).any() for values in tables.values())
    selection = FisherMaskSelector(model, fraction=0.05).query(
        torch.randn(6, 3, 32, 32), 2, progress=False
    )
    assert len(set(selection.indices.tolist())) == 2


class OfALayer(NeverDropped):
    """A table that a small network makes, as Swin's of relative positions, kept in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        del self.bias
        self.maker = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 6))
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> OfALayer:
        super().train(mode)
        self.kept = None
        return self

    def made(self) -> Tensor:
        table: Tensor = self.maker(torch.tensor([[0.5, -1.0]], dtype=self.first.weight.dtype))[0]
        return table


def test_a_table_that_a_layer_inside_makes_is_found() -> None:
    torch.manual_seed(0)
    model, x = OfALayer().double(), torch.randn(5, 4, dtype=torch.float64)
    found = fisher_diagonal(model, x)
    parameters = {name: p.detach() for name, p in model.train().named_parameters()}

    def log_p(some: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, some, (one[None],)).log_softmax(1)[0]

    rows = vmap(jacrev(log_p), (None, 0))(parameters, x)
    p = model(x).softmax(1).detach()
    for name, values in found.items():
        weights = p.reshape(*p.shape, *[1] * values.ndim)
        expected = (rows[name].square() * weights).sum(1).mean(0)
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-14)
    assert found["maker.0.weight"].sum() > 0
    assert slow_parameters(model, x) == ()
