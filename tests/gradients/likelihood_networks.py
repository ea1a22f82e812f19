"""Networks of several kinds of outputs, and rows for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import Attention, SharedWeights, TextClassifier
from torch import Tensor, nn

from fishermask_fast import reference

BOUND = 1e-10
N = 7


def squared_margins(outputs: Tensor) -> Tensor:
    """Two rows for any outputs, of no distribution in particular."""
    z = outputs.reshape(len(outputs), -1)
    return torch.stack([z.sigmoid(), z.tanh() + 0.5], 1)


class Squeezed(nn.Module):
    """One output a sample, without a dimension of its own (and none at all for one sample)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh()).squeeze()


class Tagger(nn.Module):
    """One prediction a token; padding (token 0) gives constants, which no parameter moves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.mix = nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mix(self.embedding(tokens).transpose(1, 2)).transpose(1, 2).tanh()
        return self.head(x).masked_fill((tokens == 0)[..., None], 0.0)


def token_rows(outputs: Tensor) -> Tensor:
    """One of C tags a token, each by itself: C rows a token, block by block."""
    n, length, tags = outputs.shape
    p = outputs.softmax(2)
    block = p.sqrt()[..., None] * (torch.eye(tags, dtype=p.dtype) - p[:, :, None, :])
    rows = block.new_zeros(n, length, tags, length, tags)
    for token in range(length):
        rows[:, token, :, token] = block[:, token]
    return rows.reshape(n, length * tags, length * tags)


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))


def numbers() -> Tensor:
    return torch.randn(N, 5, dtype=torch.float64)


def tokens() -> Tensor:
    found = torch.randint(1, 11, (N, 6))
    found[1, 4:] = 0
    found[3, 2:] = 0
    return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "labels": (lambda: mlp(4), numbers),
    "one output": (lambda: mlp(1), numbers),
    "squeezed": (Squeezed, numbers),
    "text": (TextClassifier, tokens),
    "attention": (Attention, lambda: torch.randn(N, 6, 8, dtype=torch.float64)),
    "shared": (SharedWeights, numbers),
}
ROWS: dict[str, Callable[..., Tensor]] = {
    "bernoulli": reference.bernoulli_rows,
    "gaussian": reference.gaussian_rows,
    "function": squared_margins,
}


def given(name: str) -> Any:
    return squared_margins if name == "function" else name


def make(network: str) -> tuple[nn.Module, Tensor]:
    build, data = NETWORKS[network]
    return build().double().eval(), data()
