"""CIFAR ResNets (He et al. 2016): a 3x3 stem of stride 1, stages of two-conv blocks, 1x1-conv
shortcuts with BN.

The residual stream of a stage is named after the stage. conv1 of a block writes a stream of its
own; conv2 and the shortcut write the stage's.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import nn
from torch.nn.functional import relu

from benchmark.models._net import IMAGE, Conv, Net, Plan


def table(widths: tuple[int, ...], blocks: tuple[int, ...]) -> list[Conv]:
    """The convs of a ResNet with `blocks[i]` blocks of `widths[i]` filters in stage i."""
    stem = Conv(
        name="conv1", norm="bn1", reads=IMAGE, writes="layer1", filters=widths[0], prunable=False
    )
    convs, reads = [stem], stem.writes
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        stream, conv = f"layer{stage}", partial(Conv, filters=width)
        for i in range(count):
            block = f"{stream}.{i}"
            first, second, shortcut = f"{block}.conv1", f"{block}.conv2", f"{block}.shortcut"
            convs += [
                conv(name=first, norm=f"{block}.bn1", reads=reads, writes=first),
                conv(name=second, norm=f"{block}.bn2", reads=first, writes=stream),
            ]
            if reads != stream:
                names = {"name": f"{shortcut}.0", "norm": f"{shortcut}.1"}
                convs.append(conv(**names, reads=reads, writes=stream))
            reads = stream
    return convs


class Block(nn.Module):
    def __init__(self, net: Net, name: str, stride: int) -> None:
        super().__init__()
        self.conv1 = net.conv2d(f"{name}.conv1", 3, stride)
        self.bn1 = net.norm2d(f"{name}.conv1")
        self.conv2 = net.conv2d(f"{name}.conv2", 3)
        self.bn2 = net.norm2d(f"{name}.conv2")
        self.shortcut = nn.Sequential()
        shortcut = f"{name}.shortcut.0"
        if shortcut in net.convs:
            self.shortcut = nn.Sequential(net.conv2d(shortcut, 1, stride), net.norm2d(shortcut))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.bn1(self.conv1(x)), inplace=True)
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet(Net):
    def __init__(self, convs: list[Conv], plan: Plan, num_classes: int) -> None:
        stages = sorted({conv.writes for conv in convs if "." not in conv.writes})
        super().__init__(convs, plan, head="linear", head_reads=stages[-1])
        self.conv1 = self.conv2d("conv1", 3)
        self.bn1 = self.norm2d("conv1")
        for stage in stages:
            heads = [name for name in self.convs if re.fullmatch(rf"{stage}\.\d+\.conv1", name)]
            strides = [1 if i or stage == stages[0] else 2 for i in range(len(heads))]
            blocks = (Block(self, f"{stage}.{i}", stride) for i, stride in enumerate(strides))
            setattr(self, stage, nn.Sequential(*blocks))
        self.linear = self.linear_head(num_classes)
        self.stages = stages

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(x.mean((2, 3)))
