"""ResNet-20 for CIFAR (He et al. 2016, section 4.2): three stages of three blocks."""

from functools import partial

from benchmark.models._resnet import ResNet, table

CONVS = table(widths=(16, 32, 64), blocks=(3, 3, 3))
build = partial(ResNet, CONVS)
