"""Reading CIFAR in the forms it comes in: our npz arrays, the official pickles, or torchvision's download."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.data import Images
from benchmark.errors import UserError
from benchmark.locks import held, is_held

SIDE = 32
HOW = "see the README, section Data"


@dataclass(frozen=True)
class Release:
    """Where an official release keeps things."""

    name: str
    torchvision: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: bytes
    meta: str
    classes: bytes


def load(release: Release, root: Path) -> Images:
    """The data set from `root`: `<name>/{train,test}.npz`, or the official folder, or else downloaded."""
    arrays, official = root / release.name, root / release.folder
    if arrays.is_dir():
        return _from_arrays(arrays)
    lock = root / f".{release.name}.lock"
    if is_held(lock) or _missing(release, official):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with held(lock, wait=True):  # another process may be downloading, or unpacking
                if missing := _missing(release, official):
                    _download(release, root, missing)
        except OSError as error:
            if missing := _missing(release, official):
                raise UserError(
                    f"{release.name} is not in the data folder {root} ({missing} is missing), which cannot be written "
                    f"to ({error.strerror}); {HOW}"
                ) from None
    return _from_pickles(release, official)


def _missing(release: Release, folder: Path) -> str | None:
    """The first file that the official folder lacks."""
    files = (*release.train, release.test, release.meta)
    return next((f"{folder.name}/{file}" for file in files if not (folder / file).is_file()), None)


def _from_arrays(folder: Path) -> Images:
    train, test = (_guarded(folder / f"{split}.npz", _read_npz) for split in ("train", "test"))
    return Images(*train[:2], *test[:2], tuple(str(name) for name in train[2]), augment=True)


def _read_npz(path: Path) -> tuple[np.ndarray, ...]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"], arrays["classes"]


def _from_pickles(release: Release, folder: Path) -> Images:
    def split(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        batches = [_guarded(folder / name, lambda path: _read_pickle(path, release.labels)) for name in names]
        images, labels = zip(*batches, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    meta = _guarded(folder / release.meta, lambda path: _unpickle(path)[release.classes])
    classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in meta)
    return Images(*split(release.train), *split((release.test,)), classes, augment=True)


def _read_pickle(path: Path, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(path)
    images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return images, np.asarray(batch[key], dtype=np.int64)


def _unpickle(path: Path) -> dict:
    with path.open("rb") as file:
        return pickle.load(file, encoding="bytes")


def _guarded(path: Path, read: Callable) -> tuple[np.ndarray, ...]:
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"data file {path} is missing; {HOW}") from None
    except Exception as error:  # a garbled pickle or archive can raise anything
        said = " ".join(str(error).split())
        raise UserError(f"data file {path} is cut short or corrupt ({said}); delete it and {HOW}") from None


def _download(release: Release, root: Path, missing: str) -> None:
    import torchvision.datasets  # here, because only a download needs it

    print(f"downloading {release.name} into {root}")
    try:
        getattr(torchvision.datasets, release.torchvision)(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{release.name} is not in the data folder {root} ({missing} is missing) and cannot be downloaded "
            f"({error}); {HOW}"
        ) from None
