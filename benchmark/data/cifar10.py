"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 10 classes."""

from __future__ import annotations

from pathlib import Path

from benchmark.data import Images, _cifar

RELEASE = _cifar.Release(
    name="cifar10", torchvision="CIFAR10", folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)), test="test_batch", labels=b"labels",
    meta="batches.meta", classes=b"label_names",
    sums={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)  # fmt: skip
TRAIN_IMAGES, CLASSES = 50_000, 10


def load(root: Path, path: str) -> Images:
    return _cifar.load(RELEASE, root)


def files(root: Path, path: str) -> list[Path]:
    return _cifar.files(RELEASE, root)
