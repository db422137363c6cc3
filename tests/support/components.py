"""A measure, an architecture and a data set, as users write them."""

COMPONENTS = {
    "measures": (
        "squared_taylor.py",
        '''
from benchmark.registry import measure


@measure(order=1)
def squared_taylor(weight, gradient):
    """(sum w g)^2. Source: a test. Unlike `taylor` it is squared."""
    return (weight * gradient).sum(dim=1).square()
''',
    ),
    "models": (
        "two_convs.py",
        '''
"""Two convs."""

from torch.nn.functional import adaptive_avg_pool2d, relu

from benchmark.models import Conv, Net

CONVS = [
    Conv(name="conv1", norm="bn1", reads="image", writes="a", filters=16),
    Conv(name="conv2", norm="bn2", reads="a", writes="b", filters=32),
]


class TwoConvs(Net):
    def __init__(self, plan, num_classes):
        super().__init__(CONVS, plan, head="linear", head_reads="b")
        self.conv1, self.bn1 = self.conv2d("conv1", 3), self.norm2d("conv1")
        self.conv2, self.bn2 = self.conv2d("conv2", 3, stride=2), self.norm2d("conv2")
        self.linear = self.linear_head(num_classes)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.linear(adaptive_avg_pool2d(x, 1).flatten(1))


def build(plan, num_classes):
    return TwoConvs(plan, num_classes)
''',
    ),
    "data": (
        "stripes.py",
        '''
"""Flat and striped images."""

import numpy as np

from benchmark.data import Images


def load(root, path):
    labels = np.arange(60) % 2
    images = np.zeros((60, 32, 32, 3), dtype=np.uint8)
    images[labels == 1, ::2] = 255
    classes = ("flat", "striped")
    return Images(images[:40], labels[:40], images[40:], labels[40:], classes, augment=False)
''',
    ),
}
"""{kind: (file, its text)}"""
