"""CIFAR ResNets (He et al. 2016): a 3x3 stem of stride 1, stages of two-conv blocks, 1x1-conv
shortcuts with BN."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import relu

from benchmark.models import scaled


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential()
        if stride > 1:
            conv = nn.Conv2d(inputs, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.bn1(self.conv1(x)), inplace=True)
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """`blocks[i]` blocks of `widths[i]` filters in stage i."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        inputs = widths[0]
        self.conv1 = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.stages = []
        for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            first = Block(inputs, filters, 1 if stage == 1 else 2)
            more = (Block(filters, filters, 1) for _ in range(count - 1))
            self.stages.append(f"layer{stage}")
            setattr(self, self.stages[-1], nn.Sequential(first, *more))
            inputs = filters
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(x.mean((2, 3)))


def resnet(
    widths: tuple[int, ...], blocks: tuple[int, ...], num_classes: int, width: float
) -> ResNet:
    """A ResNet of these stages, whose filters are scaled by `width`."""
    return ResNet(tuple(scaled(filters, width) for filters in widths), blocks, num_classes)
