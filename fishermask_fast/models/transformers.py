"""A small Vision Transformer (Dosovitskiy et al. 2021) whose parameters all sit in plain layers.

softmax(Q K^T / sqrt(d_head)) V over patches, with Q, K and V of one ``nn.Linear``, fixed sines for
the places of the patches, and their mean instead of a class token: so every parameter belongs to a
convolution, a linear layer or a LayerNorm, for which per-sample gradients have rules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """Blocks of attention on square patches, for small images.

    Args:
        n_classes: Number of logits.
        in_channels: Channels of an image.
        size: (height, width) of an image; each a multiple of the patch's side.
        patch: Side of a patch; 4 unless that does not divide both sides, then 2.
        width: Of a patch's vector.
        depth: Blocks.
        heads: Of attention.

    Raises:
        ValueError: The patches do not divide the image.
    """

    def __init__(
        self,
        n_classes: int,
        in_channels: int = 3,
        size: tuple[int, int] = (32, 32),
        patch: int | None = None,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if patch is None:
            patch = 4 if all(side % 4 == 0 and side > 8 for side in size) else 2
        if any(side % patch for side in size):
            raise ValueError(f"vit_small takes images of even sides; got {size[0]} x {size[1]}")
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        places = _sines(size[0] // patch, size[1] // patch, width)
        self.register_buffer("places", places, persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, in_channels, height, width)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.fc(self.norm(self.blocks(x)).mean(1))
        return logits


class Block(nn.Module):
    """Attention and a hidden layer, each on a normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.hidden = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, patches, width) to the same."""
        n, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        result: Tensor = x + self.hidden(self.norm2(x))
        return result


def _sines(height: int, width: int, size: int) -> Tensor:
    """(1, height * width, size) sines and cosines of a patch's row and column."""
    frequencies = torch.exp(torch.arange(size // 4) * (-math.log(10_000.0) / (size // 4)))
    parts = []
    for n_places, dimension in ((height, 0), (width, 1)):
        angles = torch.arange(n_places)[:, None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        shape = [height, width, waves.shape[1]]
        parts.append(waves.unsqueeze(1 - dimension).expand(shape))
    return torch.cat(parts, 2).flatten(0, 1).unsqueeze(0)
