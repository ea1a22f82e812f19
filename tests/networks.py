"""Small networks of every kind that users bring, and what their masked gradients must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishermask_fast.masks.mask import FisherMask

Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network and a batch for it; `slow` tells which parameters no layer rule covers."""

    model: nn.Module
    inputs: Inputs
    slow: Callable[[str], bool] = lambda name: False


def settle(model: nn.Module) -> nn.Module:
    """Running statistics and scales away from their initial zeros and ones."""
    generator = torch.Generator().manual_seed(1)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and module.running_mean is not None
            ):
                module.running_mean.copy_(draw(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(draw(module.running_var, 0.5, 1.5))
            if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)):
                for p in module.parameters(recurse=False):
                    p.copy_(draw(p, 0.5, 1.5))
    return model


def expected_columns(
    per_sample: dict[str, Tensor],  # name -> (N, r, *shape)
    mask: FisherMask,
    head: str | None,
) -> Tensor:
    """(N, r, k) in the order of GradientFactors.dense(): the head's entries last, by (c, j)."""
    weight, bias = f"{head}.weight", f"{head}.bias"
    parts = [
        per_sample[name].reshape(*per_sample[name].shape[:2], -1)[:, :, index]
        for name, index in mask.indices.items()
        if head is None or name not in (weight, bias)
    ]
    if head is not None:
        blocks, keeps = [per_sample[weight]], [torch.zeros(mask.shapes[weight], dtype=torch.bool)]
        keeps[0].view(-1)[mask.indices[weight]] = True
        if bias in mask.indices:
            blocks.append(per_sample[bias][..., None])
            keeps.append(torch.zeros(mask.shapes[bias] + (1,), dtype=torch.bool))
            keeps[1].view(-1)[mask.indices[bias]] = True
        parts.append(torch.cat(blocks, -1).flatten(2)[:, :, torch.cat(keeps, -1).flatten()])
    return torch.cat(parts, 2)


def some_of_each(model: nn.Module, seed: int = 0, most: int = 7) -> FisherMask:
    """A mask with a few entries of every trainable tensor, and many of some."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    indices = {}
    for i, (name, shape) in enumerate(shapes.items()):
        size = torch.Size(shape).numel()
        count = min(size, most) if i % 3 else (size + 1) // 2
        indices[name] = torch.randperm(size, generator=generator)[:count].sort().values
    return FisherMask(shapes, indices, "test", ())


class TextClassifier(nn.Module):
    """Mean of embeddings, padding left out, and a linear head."""

    def __init__(self, vocabulary: int = 30, width: int = 6, n_classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.embedding(tokens).mean(1).tanh())


class Recurrent(nn.Module):
    """Embedding, a recurrent layer and a head on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.rnn = kind(5, 4, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(tokens))
        return self.fc(states[:, -1])


class Attention(nn.Module):
    """A transformer block on F.scaled_dot_product_attention."""

    def __init__(self, width: int = 8, heads: int = 2, n_classes: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)
        )
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(mixed)
        x = x + self.mlp(x)
        return self.head(x.mean(1))


class DictModel(nn.Module):
    """Takes keyword arguments with an attention mask and returns an object with .logits."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(25, 6)
        self.positions = nn.Embedding(9, 6)
        self.dense = nn.Linear(6, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        x = self.dense(x).tanh() * attention_mask[..., None]
        return SimpleNamespace(logits=self.classifier(x.sum(1)))


class SharedWeights(nn.Module):
    """A layer called twice, two names of one weight, and a weight used by F.linear besides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.twice = nn.Linear(6, 6)
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.besides = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)).tanh()).tanh()
        x = self.two(self.one(x).tanh()).tanh()
        x = F.linear(self.besides(x).tanh(), self.besides.weight)
        return self.head(x)


class SequenceFirst(nn.Module):
    """Time before samples inside, as nn.TransformerEncoder has it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.inner(x.transpose(0, 1)))
        return self.head(x.mean(0))


class Windows(nn.Module):
    """Samples split into windows that lie along the first dimension, as in a Swin Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        windows = self.mix(self.norm(x.reshape(n * 2, t // 2, d))).relu()
        windows = self.conv(windows.transpose(1, 2)).mean(2)
        return self.head(windows.view(n, 2, d).sum(1))


class InPlace(nn.Module):
    """Layers whose outputs are overwritten, whole, in part and through views."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.linear = nn.Linear(6, 5)
        self.bias = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv(x))
        x = F.relu_(self.linear(x))
        x = self.bias(x.mean(2))
        x.mul_(2.0)
        x[:, 0] += 1.0
        return self.head(x.mean(1)).mul_(3.0)


class Scaled(nn.Module):
    """Something follows the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).tanh()
        return 5 * self.fc(hidden).tanh(), hidden


class Tokens(nn.Module):
    """What vision transformers do to tokens, with weights that no layer owns.

    A class token before them, positions added, attention by F.linear with a table of relative
    positions, layer scales, a block used three times, and a second head that nobody asks.
    """

    def __init__(self, width: int = 6, heads: int = 2, n_classes: int = 3, tokens: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, tokens + 3, width))
        self.relative = nn.Parameter(torch.randn(2 * tokens + 1, heads))
        places = torch.arange(tokens + 1)
        self.register_buffer("places", places[:, None] - places[None] + tokens)
        self.norm = nn.LayerNorm(width)
        self.qkv, self.qkv_bias = (
            nn.Parameter(torch.randn(3 * width, width) / 2), nn.Parameter(torch.randn(3 * width)),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.head = nn.Linear(width, n_classes)
        self.aux = nn.Linear(width, n_classes)

    def block(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = F.linear(self.norm(x), self.qkv, self.qkv_bias)
        q, k, v = qkv.view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT + self.relative[self.places].permute(2, 0, 1)
        return x + self.scale * (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.positions[:, : x.shape[1]]
        for _ in range(3):
            x = self.block(x)
        return self.head(x[:, 0]), self.aux(x[:, 1])


class FirstOf(nn.Module):
    """The first of a network's outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]
