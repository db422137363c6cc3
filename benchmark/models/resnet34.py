"""ResNet-34 (He et al. 2016) with the CIFAR stem: four stages of 3, 4, 6 and 3 blocks."""

from functools import partial

from benchmark.models._resnet import ResNet, table

CONVS = table(widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3))
build = partial(ResNet, CONVS)
