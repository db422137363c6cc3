"""ResNet-56 for CIFAR (He et al. 2016, section 4.2): three stages of nine blocks."""

from torch import nn

from benchmark.models._resnet import resnet


def build(num_classes: int, width: float = 1.0) -> nn.Module:
    """The net with its initial weights."""
    return resnet((16, 32, 64), (9, 9, 9), num_classes, width)
