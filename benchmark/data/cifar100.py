"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 100 (fine) classes."""

from __future__ import annotations

from pathlib import Path

from benchmark.data import Images, _cifar

RELEASE = _cifar.Release(
    name="cifar100", torchvision="CIFAR100", folder="cifar-100-python",
    train=("train",), test="test",
    labels=b"fine_labels", meta="meta", classes=b"fine_label_names",
    sums={
        "train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)  # fmt: skip
TRAIN_IMAGES, CLASSES = 50_000, 100


def load(root: Path, path: str) -> Images:
    return _cifar.load(RELEASE, root)


def files(root: Path, path: str) -> list[Path]:
    return _cifar.files(RELEASE, root)
