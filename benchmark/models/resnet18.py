"""ResNet-18 (He et al. 2016) with the CIFAR stem: four stages of two blocks."""

from torch import nn

from benchmark.models._resnet import resnet


def build(num_classes: int, width: float = 1.0) -> nn.Module:
    """The net with its initial weights."""
    return resnet((64, 128, 256, 512), (2, 2, 2, 2), num_classes, width)
