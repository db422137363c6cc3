"""MobileNet-V1 (Howard et al. 2017) in its CIFAR form: stem of stride 1, thirteen
depthwise-separable blocks."""

import torch
from torch import nn
from torch.nn.functional import relu

from benchmark.models._net import IMAGE, Conv, Net, Plan

STEM = 32
BLOCKS = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
    + 5 * ((512, 1),)
    + ((1024, 2), (1024, 1))
)


def _table() -> list[Conv]:
    convs = [Conv(name="conv1", norm="bn1", reads=IMAGE, writes="conv1", filters=STEM)]
    for i, (filters, _) in enumerate(BLOCKS):
        before = convs[-1]
        convs += [
            Conv(
                name=f"layers.{i}.conv1", norm=f"layers.{i}.bn1",
                reads=before.writes, writes=before.writes, filters=before.filters,
            ),
            Conv(
                name=f"layers.{i}.conv2", norm=f"layers.{i}.bn2",
                reads=before.writes, writes=f"layers.{i}.conv2", filters=filters,
            ),
        ]  # fmt: skip
    return convs


CONVS = _table()


class Block(nn.Module):
    def __init__(self, net: Net, name: str, stride: int) -> None:
        super().__init__()
        self.conv1 = net.conv2d(f"{name}.conv1", 3, stride)
        self.bn1 = net.norm2d(f"{name}.conv1")
        self.conv2 = net.conv2d(f"{name}.conv2", 1)
        self.bn2 = net.norm2d(f"{name}.conv2")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        return relu(self.bn2(self.conv2(x)), inplace=True)


class MobileNet(Net):
    def __init__(self, plan: Plan, num_classes: int) -> None:
        super().__init__(CONVS, plan, head="linear", head_reads=CONVS[-1].writes)
        self.conv1 = self.conv2d("conv1", 3)
        self.bn1 = self.norm2d("conv1")
        self.layers = nn.Sequential(
            *(Block(self, f"layers.{i}", stride) for i, (_, stride) in enumerate(BLOCKS))
        )
        self.linear = self.linear_head(num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(x)), inplace=True)
        return self.linear(self.layers(x).mean((2, 3)))


build = MobileNet
