"""Networks in PyTorch: CIFAR's, written here, and torchvision's. Without TensorFlow, which would slow it down."""

import contextlib
import math
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]


class Block(nn.Module):
    """Two 3x3 convolutions and, in a residual net, the shortcut A around them: pixels left out, new channels zero."""

    def __init__(self, channels: int, filters: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.new, self.residual = stride, filters - channels, residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.residual:
            if self.new:
                x = x[:, :, :: self.stride, :: self.stride]
                x = nn.functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
            y = y + x
        return torch.relu(y)


class CifarNet(nn.Module):
    """A net of 6n+2 layers, with the names of the usual PyTorch code: conv1, bn1, layer1.0.conv1, ..., linear.

    Convolutions start as He et al. 2015b (equation 14) have them, the head as Keras's `he_normal`.
    """

    def __init__(
        self, depth: int, residual: bool = True, *, channels: int = 3, classes: int = 10, zero_init_gamma: bool = False
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, residual)
        self.layer2 = self._stage(blocks, 16, 32, residual)
        self.layer3 = self._stage(blocks, 32, 64, residual)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Block) and residual and zero_init_gamma:
                nn.init.zeros_(module.bn2.weight)
        # Cut at two deviations, and so wide that what is left has He's deviation.
        deviation = math.sqrt(2 / 64) / 0.87962566
        nn.init.trunc_normal_(self.linear.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def _stage(blocks: int, channels: int, filters: int, residual: bool) -> nn.Sequential:
        first = Block(channels, filters, filters // channels, residual)
        return nn.Sequential(first, *(Block(filters, filters, 1, residual) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def torchvision_model(name: str, classes: int) -> nn.Module:
    """A network of torchvision, of random weights. Raises `ImportError` where it is not installed."""
    with contextlib.suppress(RuntimeError):
        # torchvision from the package index beside torch for CPUs alone has no operators; the networks need none.
        library: Any = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models  # pyright: ignore[reportMissingImports]

    return models.get_model(name, weights=None, num_classes=classes)
