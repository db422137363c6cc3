"""VGG-13 for CIFAR as Lubana & Dick (ICLR 2021) have it: ten convs, each conv -> ReLU -> BN, five
max-pools."""

import torch
from torch import nn

from benchmark.models._net import IMAGE, Conv, Net, Plan

LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


def _table() -> list[Conv]:
    convs, reads, index = [], IMAGE, 0
    for filters in LAYERS:
        if filters == "M":
            index += 1
            continue
        name = f"features.{index}"
        convs.append(
            Conv(name=name, norm=f"features.{index + 2}", reads=reads, writes=name, filters=filters)
        )
        reads, index = name, index + 3
    return convs


CONVS = _table()


class VGG(Net):
    def __init__(self, plan: Plan, num_classes: int) -> None:
        super().__init__(CONVS, plan, head="classifier", head_reads=CONVS[-1].writes)
        names, layers = iter(self.convs), []
        for filters in LAYERS:
            if filters == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                name = next(names)
                layers += [self.conv2d(name, 3), nn.ReLU(inplace=True), self.norm2d(name)]
        self.features = nn.Sequential(*layers)
        self.classifier = self.linear_head(num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


build = VGG
