"""Data sets, one file each, as plain arrays in memory. Nothing here imports torch.

A file declares `load(root, path)` and returns an `Images`; `path` is what follows `name:` (`folder:PATH`), of which a
file that wants one says so with `TAKES_PATH = True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark import registry
from benchmark.errors import UserError, require


@dataclass(frozen=True)
class Images:
    """A data set: images uint8 [N, H, W, 3], labels int64 [N], class names."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    augment: bool
    """Whether training uses random crops and flips."""


def load(dataset: str, root: Path) -> Images:
    """Load a data set (`digits`, `cifar10`, `cifar100`, `folder:PATH`) from the folder `root`.

    Raises `UserError` that names the file that is missing, cut short or wrong, and says how to get it.
    """
    name, _, path = dataset.partition(":")
    source = registry.load("data", name)
    require(not path or getattr(source, "TAKES_PATH", False), "dataset", dataset, f"{name}, which takes no path")
    images = source.load(Path(root), path)
    for split, x, y in (
        ("train", images.train_images, images.train_labels),
        ("test", images.test_images, images.test_labels),
    ):
        _check(f"{dataset} ({split})", x, y, len(images.classes))
    return images


def _check(what: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{what}: images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        wanted = f"int64 [{len(images)}]"
        raise UserError(f"{what}: labels must be {wanted}, got {labels.dtype} {list(labels.shape)}")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        span = f"{labels.min()} to {labels.max()}" if len(labels) else "no image"
        raise UserError(f"{what}: labels must be from 0 to {classes - 1}, got {span}")
