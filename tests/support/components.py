"""A measure, an architecture and a data set, as users write them."""

import hashlib

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

from torch import nn

from benchmark.models import scaled


def build(num_classes, width=1.0):
    one, two = scaled(16, width), scaled(32, width)
    return nn.Sequential(
        nn.Conv2d(3, one, 3, padding=1), nn.BatchNorm2d(one), nn.ReLU(),
        nn.Conv2d(one, two, 3, stride=2), nn.BatchNorm2d(two), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(two, num_classes),
    )
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

COSINE = '''
from benchmark.registry import measure


@measure(order=1)
def cosine(weight, gradient):
    """|w.g| / |w|. Source: a test. Unlike `taylor` it is divided."""
    return (weight * gradient).sum(dim=1).abs() / weight.norm(dim=1)
'''
NAME = f"cosine@{hashlib.sha256(COSINE.encode()).hexdigest()[:12]}"
DATA = """
import numpy as np

from benchmark.data import Images

TAKES_PATH = True


def load(root, path):
    labels = np.arange(80) % 2
    images = np.zeros((80, 32, 32, 3), dtype=np.uint8)
    images[labels == 1, ::2] = int(path or 255)
    return Images(images[:60], labels[:60], images[60:], labels[60:], ("a", "b"), augment=False)
"""
NET = "from benchmark.models.resnet20 import build\n"


def packaged(folder, **entries):
    """An installed package, on the path, that declares entry points {group: entry}."""
    lines = [line for group, entry in entries.items() for line in (f"[flowprune.{group}]", entry)]
    info = folder / f"{folder.name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {folder.name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
