"""`folder:PATH`: any images, in one folder per class under PATH/train and PATH/test, all of one
size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data import Images
from benchmark.errors import ShortageError, UserError, require

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
WIDE_MODES = "IF"
"""First letters of PIL's modes with more than 8 bits per channel, which PIL clips to white."""
TAKES_PATH = True
LAYOUT = "the layout is PATH/train/CLASS/*.png and PATH/test/CLASS/*.png"


def load(root: Path, path: str) -> Images:
    folder = _folder(path)
    classes = tuple(child.name for child in _seen(folder / "train") if child.is_dir())
    if not classes:
        raise UserError(f"data folder {folder / 'train'} has no class folders; {LAYOUT}")
    test_classes = [child.name for child in _seen(folder / "test") if child.is_dir()]
    if unknown := [name for name in test_classes if name not in classes]:
        raise UserError(
            f"data folder {folder / 'test'} has classes that are not in train: {', '.join(unknown)}"
        )
    _require_read(folder)
    train, test = (_split(folder / split, classes) for split in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        sizes = f"train has {_size(train[0].shape)}, test {_size(test[0].shape)} in {folder}"
        raise UserError(f"images must all have one size: {sizes}")
    return Images(*train, *test, classes, augment=True)


def files(root: Path, path: str) -> list[Path]:
    folder = _folder(path)
    classes = [
        child for split in ("train", "test") for child in _seen(folder / split) if child.is_dir()
    ]
    return [image for child in classes for image in _images(child)]


def _folder(path: str) -> Path:
    if not path:
        raise UserError("dataset folder: needs a path, such as folder:photos")
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:  # no such user
        raise UserError(f"dataset folder:{path} is no path ({error})") from None
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise UserError(f"data folder {folder / split} is missing; {LAYOUT}")
    return folder


def _seen(folder: Path) -> list[Path]:
    """The content of a folder, sorted by name, without what systems and archives add (.DS_Store,
    ._x.png)."""
    try:
        return sorted(
            p for p in folder.iterdir() if not p.name.startswith(".") and p.name != "__MACOSX"
        )
    except PermissionError as error:
        raise ShortageError(f"data folder {folder} cannot be read ({error.strerror})") from None


def _images(folder: Path) -> list[Path]:
    return [path for path in _seen(folder) if path.suffix.lower() in SUFFIXES and not path.is_dir()]


def _require_read(folder: Path) -> None:
    """Raise `UserError` if there is a file that is not read, so that no image is left out
    unnoticed."""
    unread = []
    for split in ("train", "test"):
        for child in _seen(folder / split):
            unread += sorted(set(_seen(child)) - set(_images(child))) if child.is_dir() else [child]
    if unread:
        count = f"{len(unread)} files or folders" if len(unread) > 1 else "a file or folder"
        kinds = " ".join(sorted(SUFFIXES))
        raise UserError(
            f"data folder {folder} has {count} that cannot be read, first {unread[0]}; {LAYOUT} "
            f"({kinds})"
        )


def _split(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    images, labels, first = [], [], None
    for label, name in enumerate(classes):
        found = _images(folder / name) if (folder / name).is_dir() else []
        if not found:
            raise UserError(f"data folder {folder} has no images of class {name!r}; {LAYOUT}")
        for path in found:
            image = _read(path)
            first = first or (path, image.shape)
            if image.shape != first[1]:
                sizes = f"{first[0]} has {_size(first[1])}, {path} {_size(image.shape)}"
                raise UserError(f"images must all have one size: {sizes}")
            images.append(image)
            labels.append(label)
    return np.stack(images), np.asarray(labels, dtype=np.int64)


def _read(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # here, because no other data set needs it

    try:
        with Image.open(path) as image:
            narrow, allowed = image.mode[0] not in WIDE_MODES, "an image of 8 bits per channel"
            require(narrow, f"data file {path}", image.mode, allowed)
            return np.asarray(image.convert("RGB"))
    except PermissionError as error:
        raise ShortageError(f"data file {path} cannot be read ({error.strerror})") from None
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"data file {path} is cut short or not an image ({error})") from None


def _size(shape: tuple[int, ...]) -> str:
    height, width = shape[-3:-1]
    return f"{width}x{height}"
