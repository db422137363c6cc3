"""scikit-learn's real 8x8 digits (UCI, 1,797 images), enlarged to 32x32 RGB: needs no download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmark.data import Images

TEST_SHARE = 5  # every fifth image of a class is a test image
TRAIN_IMAGES, CLASSES = 1_433, 10


def files(root: Path, path: str) -> list[Path]:
    # Not by importing sklearn, which takes longer than a short run.
    return [Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"]


def load(root: Path, path: str) -> Images:
    with gzip.open(files(root, path)[0], "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(pixels.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    labels = table[:, -1].astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[::TEST_SHARE]] = True
    classes = tuple("0123456789")
    return Images(images[~test], labels[~test], images[test], labels[test], classes, augment=False)
