"""`folder:PATH`: any images, in one folder per class under PATH/train and PATH/test, all of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data import Images
from benchmark.errors import UserError, require

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
WIDE_MODES = "IF"
"""First letters of PIL's modes of more than 8 bits, which it clips to white."""
TAKES_PATH = True
LAYOUT = "the layout is PATH/train/CLASS/*.png and PATH/test/CLASS/*.png"


def load(root: Path, path: str) -> Images:
    if not path:
        raise UserError("dataset folder: needs a path, such as folder:photos")
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:  # no such user
        raise UserError(f"dataset folder:{path} is no path ({error})") from None
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise UserError(f"data folder {folder / split} is missing; {LAYOUT}")
    classes = tuple(sorted(child.name for child in (folder / "train").iterdir() if child.is_dir()))
    if not classes:
        raise UserError(f"data folder {folder / 'train'} has no class folders; {LAYOUT}")
    strangers = {child.name for child in (folder / "test").iterdir() if child.is_dir()} - set(classes)
    if strangers:
        raise UserError(f"data folder {folder / 'test'} has classes that train has not: {', '.join(sorted(strangers))}")
    train, test = (_split(folder / split, classes) for split in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"images must all have one size: train has {_size(train[0])}, test {_size(test[0])} in {folder}"
        )
    return Images(*train, *test, classes, augment=True)


def _split(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    images, labels, first = [], [], None
    for label, name in enumerate(classes):
        for path in sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in SUFFIXES):
            image = _read(path)
            first = first or (path, image.shape)
            if image.shape != first[1]:
                raise UserError(
                    f"images must all have one size: {first[0]} has {_size(image=first[1])}, {path} {_size(image)}"
                )
            images.append(image)
            labels.append(label)
    if not images:
        raise UserError(f"data folder {folder} has no images; {LAYOUT}")
    return np.stack(images), np.asarray(labels, dtype=np.int64)


def _read(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # here, because no other data set needs it

    try:
        with Image.open(path) as image:
            require(image.mode[0] not in WIDE_MODES, f"data file {path}", image.mode, "an image of 8 bits per channel")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"data file {path} is cut short or not an image ({error})") from None


def _size(image: np.ndarray | tuple[int, ...]) -> str:
    height, width = (image if isinstance(image, tuple) else image.shape)[-3:-1]
    return f"{width}x{height}"
