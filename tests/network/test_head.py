"""The head, read from the graph of the logits: of every kind of last layer, the right one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from fishermask_fast.network import find_head, head_parameters

D, C = 6, 3


class Calls(nn.Module):
    """Modules and parameters, and what is done with them."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parts: object) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.does = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


def body() -> nn.Module:
    return nn.Sequential(nn.Linear(4, D), nn.ReLU(), nn.Linear(D, D), nn.Tanh())


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.prototypes = parameter(C, D)

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(h), F.normalize(self.prototypes))


class HandLora(nn.Module):
    """A frozen layer with a low-rank product beside it."""

    def __init__(self, merged: bool) -> None:
        super().__init__()
        self.base = nn.Linear(D, C)
        self.a, self.b = parameter(2, D), parameter(C, 2)
        self.merged = merged

    def forward(self, h: Tensor) -> Tensor:
        if self.merged:
            return F.linear(h, self.base.weight + 0.5 * self.b @ self.a, self.base.bias)
        return self.base(h) + 0.5 * (h @ self.a.T @ self.b.T)


def shared() -> nn.Module:
    embed = nn.Embedding(9, D)
    decoder = nn.Linear(D, 9)
    decoder.weight = embed.weight
    return Calls(
        lambda m, x: m.decoder(torch.tanh(m.mix(m.embed(x).mean(1)))),
        decoder=decoder,
        mix=nn.Linear(D, D),
        embed=embed,
    )


def frozen(model: nn.Module) -> nn.Module:
    model.fc.requires_grad_(False)
    return model


def plain(fc: nn.Module) -> nn.Module:
    return Calls(lambda m, x: m.fc(m.body(x)), body=body(), fc=fc)


FLAT: dict[str, tuple[Callable[[], nn.Module], object]] = {
    "registered last": (lambda: plain(nn.Linear(D, C)), "fc"),
    "registered first": (
        lambda: Calls(lambda m, x: m.out(m.body(x)), out=nn.Linear(D, C, bias=False), body=body()),
        "out",
    ),
    "the model itself": (lambda: nn.Linear(4, C), ""),
    "a projection registered after": (
        lambda: Calls(
            lambda m, x: m.fc(m.body(x)),
            body=body(),
            fc=nn.Linear(D, C),
            projection=nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 2)),
        ),
        "fc",
    ),
    "a projection that feeds another output": (
        lambda: Calls(
            lambda m, x: (m.fc(m.body(x)), m.projection(m.body(x)))[0],
            body=body(),
            fc=nn.Linear(D, C),
            projection=nn.Linear(D, C),
        ),
        "fc",
    ),
    "old weight norm": (lambda: plain(weight_norm(nn.Linear(D, C))), "fc"),
    "new weight norm": (lambda: plain(parametrizations.weight_norm(nn.Linear(D, C))), "fc"),
    "new weight norm without bias": (
        lambda: plain(parametrizations.weight_norm(nn.Linear(D, C, bias=False))),
        "fc",
    ),
    "old spectral norm": (lambda: plain(spectral_norm(nn.Linear(D, C))), "fc"),
    "new spectral norm": (lambda: plain(parametrizations.spectral_norm(nn.Linear(D, C))), "fc"),
    "cosine": (lambda: plain(Cosine()), "fc"),
    "temperature of the model": (
        lambda: Calls(
            lambda m, x: m.fc(m.body(x)) / m.temperature,
            body=body(),
            fc=nn.Linear(D, C),
            temperature=parameter(1),
        ),
        "fc",
    ),
    "bare parameters": (
        lambda: Calls(
            lambda m, x: m.body(x + m.shift) @ m.out + m.bias,
            shift=parameter(4),
            body=body(),
            out=parameter(D, C),
            bias=parameter(C),
        ),
        ("out", "bias"),
    ),
    "distances to prototypes": (
        lambda: Calls(
            lambda m, x: -torch.cdist(m.body(x), m.prototypes),
            prototypes=parameter(C, D),
            body=body(),
        ),
        "prototypes",
    ),
    "products written out": (
        lambda: Calls(
            lambda m, x: (m.body(x)[:, None] * m.rows).sum(2), body=body(), rows=parameter(C, D)
        ),
        "rows",
    ),
    "normalised logits": (
        lambda: Calls(
            lambda m, x: m.norm(m.fc(m.body(x))),
            norm=nn.BatchNorm1d(C),
            body=body(),
            fc=nn.Linear(D, C),
        ),
        "fc",
    ),
    "two heads averaged": (
        lambda: Calls(
            lambda m, x: (m.head(m.norm(m.body(x))) + m.head_dist(m.norm(m.body(-x)))) / 2,
            head=nn.Linear(D, C),
            head_dist=nn.Linear(D, C),
            norm=nn.LayerNorm(D),
            body=body(),
        ),
        ("head", "head_dist"),
    ),
    "experts behind a gate": (
        lambda: Calls(
            lambda m, x: (
                m.gate(m.body(x)).softmax(1)[..., None]
                * torch.stack([m.one(m.body(x)), m.two(m.body(x))], 1)
            ).sum(1),
            gate=nn.Linear(D, 2),
            one=nn.Linear(D, C),
            two=nn.Linear(D, C),
            body=body(),
        ),
        ("one", "two"),
    ),
    "largest of several pieces": (
        lambda: Calls(
            lambda m, x: m.fc(m.body(x)).view(-1, C, 4).amax(2), body=body(), fc=nn.Linear(D, 4 * C)
        ),
        "fc",
    ),
    "frozen": (lambda: frozen(plain(nn.Linear(D, C))), "fc"),
    "inside a compound head": (
        lambda: plain(nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Dropout(), nn.Linear(D, C))),
        "fc.3",
    ),
    "by einsum": (
        lambda: Calls(
            lambda m, x: torch.einsum("nd,dc->nc", m.body(x), m.w), body=body(), w=parameter(D, C)
        ),
        "w",
    ),
    "weight from the left": (
        lambda: Calls(lambda m, x: (m.w @ m.body(x).T).T, w=parameter(C, D), body=body()),
        "w",
    ),
    "an adapter beside": (lambda: plain(HandLora(merged=False)), "fc.base"),
    "an adapter merged": (lambda: plain(HandLora(merged=True)), "fc.base"),
    "wide and deep": (
        lambda: Calls(
            lambda m, x: m.deep(m.body(x)) + m.wide(x),
            wide=nn.Linear(4, C),
            body=body(),
            deep=nn.Linear(D, C),
        ),
        ("wide", "deep"),
    ),
}


@pytest.mark.parametrize("kind", list(FLAT))
def test_heads_of_vectors(kind: str) -> None:
    make, expected = FLAT[kind]
    model = make()
    model.train()
    flags = [p.requires_grad for p in model.parameters()]
    assert find_head(model, torch.randn(5, 4)) == expected
    assert model.training and [p.requires_grad for p in model.parameters()] == flags
    # One sample will do.
    assert find_head(model, torch.randn(1, 4)) == expected
    head_parameters(model, expected, trainable=False)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_before_pooling(bias: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.ReLU(),
        nn.Sequential(nn.Dropout(), nn.Conv2d(5, C, 1, bias=bias), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    assert find_head(model, torch.randn(2, 1, 6, 6)) == "2.1"


def test_a_head_tied_to_an_embedding() -> None:
    model = shared()
    assert find_head(model, torch.randint(9, (4, 5))) == "decoder"
    # The tied weight counts under its first name.
    first = next(name for name, p in model.named_parameters() if p is model.embed.weight)
    assert set(head_parameters(model, "decoder")) == {first, "decoder.bias"}


def test_a_tied_head_without_bias_is_the_linear_layer() -> None:
    model = shared()
    model.decoder.bias = None
    assert find_head(model, torch.randint(9, (4, 5))) == "decoder"


def test_a_sum_of_embeddings_is_its_own_head() -> None:
    model = nn.Sequential(nn.EmbeddingBag(9, C))
    assert find_head(model, torch.randint(9, (4, 5))) == "0"


def test_a_wrapped_model() -> None:
    model = nn.DataParallel(plain(nn.Linear(D, C)))
    assert find_head(model, torch.randn(3, 4)) == "fc"


def test_a_batch_of_keywords() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(D, C, bias=False)
            self.embed = nn.Embedding(9, D)
            self.mix = nn.Linear(D, D)

        def forward(self, ids: Tensor, attention: Tensor) -> dict[str, Tensor]:
            h = self.mix(self.embed(ids)).tanh() * attention[..., None]
            logits = self.score(h)
            return {"logits": logits[torch.arange(len(ids)), attention.sum(1) - 1]}

    batch = {"ids": torch.randint(9, (4, 5)), "attention": torch.ones(4, 5, dtype=torch.int64)}
    assert find_head(Text(), batch) == "score"


def test_what_modules_alone_cannot_tell_is_asked_for() -> None:
    model = plain(nn.Linear(D, C))
    with pytest.raises(ValueError, match=r"body\.0, body\.2, fc; give inputs=.*head="):
        find_head(model)
    assert find_head(Calls(lambda m, x: m.fc(x), fc=nn.Linear(4, C))) == "fc"
    # The order of a Sequential's children is that of its forward.
    assert find_head(nn.Sequential(body(), nn.Linear(D, C), nn.Softmax(1))) == "1"


def test_an_opaque_end_is_no_guess() -> None:
    from torch.utils.checkpoint import checkpoint

    model = Calls(
        lambda m, x: checkpoint(m.fc, m.body(x), use_reentrant=True),
        body=body(),
        fc=nn.Linear(D, C),
    )
    assert find_head(model, torch.randn(3, 4)) is None


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="head 'nothing' has no parameters; .*fc"):
        head_parameters(plain(nn.Linear(D, C)), "nothing")
