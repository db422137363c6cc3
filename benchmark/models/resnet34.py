"""ResNet-34 (He et al. 2016) with the CIFAR stem: four stages of 3, 4, 6 and 3 blocks."""

from torch import nn

from benchmark.models._resnet import resnet


def build(num_classes: int, width: float = 1.0) -> nn.Module:
    """The net with its initial weights."""
    return resnet((64, 128, 256, 512), (3, 4, 6, 3), num_classes, width)
