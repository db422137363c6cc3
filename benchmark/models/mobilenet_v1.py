"""MobileNet-V1 (Howard et al. 2017) in its CIFAR form: stem of stride 1, thirteen
depthwise-separable blocks."""

import torch
from torch import nn
from torch.nn.functional import relu

from benchmark.models import scaled

STEM = 32
BLOCKS = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
    + 5 * ((512, 1),)
    + ((1024, 2), (1024, 1))
)


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, filters, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        return relu(self.bn2(self.conv2(x)), inplace=True)


class MobileNet(nn.Module):
    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        filters = [scaled(count, width) for count, _ in BLOCKS]
        inputs = [scaled(STEM, width), *filters]
        self.conv1 = nn.Conv2d(3, inputs[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs[0])
        strides = (stride for _, stride in BLOCKS)
        self.layers = nn.Sequential(*map(Block, inputs, filters, strides))
        self.linear = nn.Linear(filters[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        return self.linear(self.layers(x).mean((2, 3)))


def build(num_classes: int, width: float = 1.0) -> nn.Module:
    """The net with its initial weights."""
    return MobileNet(num_classes, width)
