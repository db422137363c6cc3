"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 10 classes."""

from __future__ import annotations

from pathlib import Path

from benchmark.data import Images, _cifar

RELEASE = _cifar.Release(
    name="cifar10", torchvision="CIFAR10", folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)), test="test_batch", labels=b"labels",
    meta="batches.meta", classes=b"label_names",
)  # fmt: skip
TRAIN_IMAGES, CLASSES = 50_000, 10


def load(root: Path, path: str) -> Images:
    return _cifar.load(RELEASE, root)
