"""Reading CIFAR from npz arrays or from the official pickles, which torchvision downloads if they
are missing."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmark.data import Images
from benchmark.errors import ShortageError, UserError, one_line, require
from benchmark.locks import held, is_held

SIDE = 32
HOW = "see docs/data.md"
KEYS = ("images", "labels", "classes")
"""The arrays of an npz file."""
ALLOWED = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip
"""The functions and classes in the official pickles, all of which make numpy arrays."""
T = TypeVar("T")


@dataclass(frozen=True)
class Release:
    """The files and keys of an official release."""

    name: str
    torchvision: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: bytes
    meta: str
    classes: bytes
    sums: Mapping[str, str]
    """{file: its published MD5 sum}"""


def load(release: Release, root: Path) -> Images:
    """The data set from the folder `root`: from `<name>/{train,test}.npz`, or from the official
    folder, which is downloaded if it is not there."""
    if (root / release.name).is_dir():
        return _from_arrays(root / release.name)
    lock = root / f".{release.name}.lock"
    if is_held(lock) or _missing(release, root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with held(lock, wait=True):  # another process may be downloading, or unpacking
                if missing := _missing(release, root):
                    _download(release, root, missing)
        except OSError as error:
            if missing := _missing(release, root):
                raise UserError(
                    f"{release.name} is not in the data folder {root} ({missing} is missing), "
                    f"which cannot be written to ({error.strerror}); {HOW}"
                ) from None
    return _from_pickles(release, root / release.folder)


def files(release: Release, root: Path) -> list[Path]:
    """The files that `load` reads; they need not exist."""
    arrays = root / release.name
    if arrays.is_dir():
        return [arrays / "train.npz", arrays / "test.npz"]
    return _official(release, root)


def _official(release: Release, root: Path) -> list[Path]:
    names = (*release.train, release.test, release.meta)
    return [root / release.folder / name for name in names]


def _missing(release: Release, root: Path) -> Path | None:
    """The first official file that is missing, relative to `root`."""
    missing = (file for file in _official(release, root) if not file.is_file())
    return next((file.relative_to(root) for file in missing), None)


def _from_arrays(folder: Path) -> Images:
    train, test = (_guarded(folder / f"{split}.npz", read_npz) for split in ("train", "test"))
    return Images(*train[:2], *test[:2], tuple(str(name) for name in train[2]), augment=True)


def read_npz(path: Path) -> tuple[np.ndarray, ...]:
    """Images, labels and classes of a split. Raises `UserError` if the file lacks one of them."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        require(
            set(KEYS) <= set(arrays), f"data file {path}: keys", sorted(arrays), " and ".join(KEYS)
        )
        return tuple(arrays[key] for key in KEYS)


def _from_pickles(release: Release, folder: Path) -> Images:
    def content(name: str) -> dict:
        return _guarded(folder / name, lambda path: _unpickled(path, release.sums[name]))

    def split(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = zip(
            *(_arrays(content(name), release.labels) for name in names), strict=True
        )
        return np.concatenate(images), np.concatenate(labels)

    names = content(release.meta)[release.classes]
    classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    return Images(*split(release.train), *split((release.test,)), classes, augment=True)


def _arrays(batch: dict, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    images = (
        np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    )
    return images, np.asarray(batch[key], dtype=np.int64)


def _unpickled(path: Path, expected: str) -> dict:
    """The content of an official file. A file with another sum is not unpickled."""
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise UserError(
            f"data file {path} is not the published one (its MD5 sum is {found}, not {expected}); "
            f"delete it and {HOW}"
        )
    return _Arrays(io.BytesIO(content), encoding="bytes").load()


class _Arrays(pickle.Unpickler):
    """Unpickles only numbers, texts and numpy arrays."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _guarded(path: Path, read: Callable[[Path], T]) -> T:
    """The result of `read(path)`. Raises `UserError` for a file that cannot be read."""
    try:
        return read(path)
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"data file {path} is missing; {HOW}") from None
    except OSError as error:
        reason = error.strerror or error
        raise ShortageError(f"data file {path} cannot be read ({reason})") from None
    except Exception as error:  # a corrupt pickle or archive can raise anything
        raise UserError(
            f"data file {path} is cut short or corrupt ({one_line(error)}); delete it and {HOW}"
        ) from None


def _download(release: Release, root: Path, missing: Path) -> None:
    import torchvision.datasets  # here, because only a download needs it

    print(f"downloading {release.name} into {root}")
    try:
        getattr(torchvision.datasets, release.torchvision)(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{release.name} is not in the data folder {root} ({missing} is missing) and cannot be "
            f"downloaded ({error}); {HOW}"
        ) from None
