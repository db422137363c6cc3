"""VGG-13 for CIFAR as Lubana & Dick (ICLR 2021) have it: ten convs, each conv -> ReLU -> BN, five
max-pools."""

import torch
from torch import nn

from benchmark.models import scaled

LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG(nn.Module):
    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        layers, inputs = [], 3
        for entry in LAYERS:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            filters = scaled(entry, width)
            conv = nn.Conv2d(inputs, filters, 3, padding=1, bias=False)
            layers += [conv, nn.ReLU(inplace=True), nn.BatchNorm2d(filters)]
            inputs = filters
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def build(num_classes: int, width: float = 1.0) -> nn.Module:
    """The net with its initial weights."""
    return VGG(num_classes, width)
