"""The small ResNet-18 of the published experiments in torch alone, without torchvision."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(wide_in, wide_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(wide_out),
            nn.ReLU(),
            nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide_out),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or wide_in != wide_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.BatchNorm2d(wide_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return out


def plain_resnet18(n_classes: int) -> nn.Module:
    """`models.resnet18_small` for three channels: the same layers and numbers of parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
    ]
    for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False):
        layers += [Block(before, width, 1 if before == width else 2), Block(width, width, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], n_classes, bias=False)]
    return nn.Sequential(*layers)
