"""Networks by name: small ones here, and those of others (see ``named``).

Every network maps samples (N, ...) to logits (N, n_classes) and ends in one ``nn.Linear`` head,
z = W h + b, whose input h the gradients' structured factors keep. The small ones leave b out, as
the published FisherMask networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fishermask_fast.models.named import (
    HF,
    TIMM,
    is_own,
    own_result,
    timm_model,
    torchvision_model,
)
from fishermask_fast.models.transformers import VisionTransformer


class SmallResNet(nn.Module):
    """ResNet of basic blocks with a 3 x 3 stem and no first pooling, for small images."""

    def __init__(
        self,
        n_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock, conv1x1

        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        stages = []
        before = widths[0]
        for stage, (width, n_blocks) in enumerate(zip(widths, blocks, strict=True)):
            members = []
            for index in range(n_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                shortcut = None
                if stride != 1 or before != width:
                    shortcut = nn.Sequential(conv1x1(before, width, stride), nn.BatchNorm2d(width))
                members.append(BasicBlock(before, width, stride, shortcut))
                before = width
            stages.append(nn.Sequential(*members))
        self.stages = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, n_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, in_channels, height, width)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.avgpool(self.stages(x)).flatten(1)
        logits: Tensor = self.fc(x)
        return logits


def resnet18_small(
    n_classes: int, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64, 128)
) -> nn.Module:
    """ResNet-18 with narrow stages, a 3 x 3 stem and a bias-free head.

    The published FisherMask experiments use the default widths: 701,456 parameters for three
    channels and ten classes, 1,280 of them in the head.

    Args:
        n_classes: Number of logits.
        in_channels: Channels of an image.
        widths: Channels of the four stages.

    Returns:
        A network from (N, in_channels, height, width) to logits (N, n_classes).
    """
    return SmallResNet(n_classes, in_channels, widths)


def cnn_small(n_classes: int, in_channels: int = 1, width: int = 16) -> nn.Module:
    """Three 3 x 3 convolutions and a bias-free head: trains on 8 x 8 digits in seconds.

    Args:
        n_classes: Number of logits.
        in_channels: Channels of an image.
        width: Channels of the first convolution; the next ones have two and four times as many.

    Returns:
        A network from (N, in_channels, height, width) to logits (N, n_classes).
    """
    layers: list[nn.Module] = []
    before = in_channels
    for multiple, stride in ((1, 1), (2, 2), (4, 2)):
        after = multiple * width
        layers += [
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        before = after
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, n_classes, bias=False)
    )


def mlp_small(n_classes: int, in_features: int, width: int = 64) -> nn.Module:
    """Two hidden layers and a bias-free head on flattened images.

    Args:
        n_classes: Number of logits.
        in_features: Values of one sample, all dimensions together.
        width: Units of each hidden layer.

    Returns:
        A network from (N, ...) with ``in_features`` values a sample to logits (N, n_classes).
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_features, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, n_classes, bias=False),
    )


def text_small(n_classes: int, vocabulary: int, width: int = 32) -> nn.Module:
    """The mean of a text's word vectors, a hidden layer and a bias-free head.

    Args:
        n_classes: Number of logits.
        vocabulary: Word ids; 0 is padding, and left out of the mean.
        width: Of the word vectors; the hidden layer has twice as many units.

    Returns:
        A network from int64 (N, words) to logits (N, n_classes).
    """
    return nn.Sequential(
        MeanOfWords(vocabulary, width),
        nn.Linear(width, 2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, n_classes, bias=False),
    )


class MeanOfWords(nn.Module):
    """Mean of the vectors of a text's words."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)

    def forward(self, words: Tensor) -> Tensor:
        """Means (N, width) of int64 (N, words), padding left out."""
        there = (words != 0).unsqueeze(-1)
        mean: Tensor = (self.words(words) * there).sum(1) / there.sum(1).clamp_min(1)
        return mean


TINY_MODELS = ("cnn_small", "mlp_small", "text_small")
IMAGE_MODELS = ("cnn_small", "mlp_small", "resnet18_small", "vit_small")


def default_model(kind: str, name: str) -> str:
    """The network for data of a kind where nobody says which."""
    if kind == "images":
        return "cnn_small" if name == "digits" else "resnet18_small"
    return {"tabular": "mlp_small", "text": "text_small"}[kind]


def build_model(
    name: str, n_classes: int, shape: Sequence[int], seed: int = 0, *, vocabulary: int = 0
) -> nn.Module:
    """Make a freshly initialised network by name.

    Args:
        name: One of ``IMAGE_MODELS``, or any torchvision classification model such as
            ``"resnet18"`` or ``"vit_b_16"``, or ``"timm:NAME"`` (without pretrained weights);
            ``"mlp_small"`` for tabular data, ``"text_small"`` for texts; or for any of them
            ``"package.module:function"``, which is called with the number of classes.
        n_classes: Number of logits, at least 2.
        shape: Of one sample: (channels, height, width), (features,) or (words,).
        seed: Seed of the initial weights; the global random state is left as it was.
        vocabulary: Number of word ids, for texts.

    Returns:
        A network from a batch of samples to logits (N, n_classes), in train mode.

    Raises:
        ValueError: The name is unknown, or the network cannot take such samples.
    """
    make = _maker(name, n_classes, tuple(shape), vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def _maker(
    name: str, n_classes: int, shape: tuple[int, ...], vocabulary: int
) -> Callable[[], nn.Module]:
    if name.startswith(HF):
        raise ValueError(
            f"model {name} is a trained network, for select; a network to train is one by name"
        )
    if is_own(name):
        return lambda: own_result(name, n_classes)[0]
    if vocabulary:
        if name != "text_small":
            raise ValueError(f"model must be text_small for texts; got {name!r}")
        return lambda: text_small(n_classes, vocabulary)
    if len(shape) == 1:
        if name != "mlp_small":
            raise ValueError(f"model must be mlp_small for tabular data; got {name!r}")
        return lambda: mlp_small(n_classes, shape[0])
    channels, height, width = shape
    makers: dict[str, Callable[[], nn.Module]] = {
        "cnn_small": lambda: cnn_small(n_classes, channels),
        "mlp_small": lambda: mlp_small(n_classes, channels * height * width),
        "resnet18_small": lambda: resnet18_small(n_classes, channels),
        "vit_small": lambda: VisionTransformer(n_classes, channels, (height, width)),
    }
    if name in makers:
        return makers[name]
    if name.startswith(TIMM):
        return lambda: timm_model(name.removeprefix(TIMM), n_classes, shape)
    return lambda: torchvision_model(name, n_classes, shape)
