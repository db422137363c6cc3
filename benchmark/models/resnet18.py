"""ResNet-18 (He et al. 2016) with the CIFAR stem: four stages of two blocks."""

from functools import partial

from benchmark.models._resnet import ResNet, table

CONVS = table(widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2))
build = partial(ResNet, CONVS)
