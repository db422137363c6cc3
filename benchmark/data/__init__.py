"""Data sets, one file each, as plain arrays in memory. Their files import no torch.

A file declares `load(root, path)`, which returns an `Images`, and `files(root, path)`, the files
that it reads (omitted if it reads none). `path` is the part of the data set's name after the colon
(`folder:PATH`); a file that expects one declares `TAKES_PATH = True`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import registry
from benchmark.errors import UserError, require
from benchmark.files import DIGITS, write_atomically

if TYPE_CHECKING:
    from benchmark.record import Record


@dataclass(frozen=True)
class Images:
    """A data set: images uint8 [N, H, W, 3], labels int64 [N] that number the K class names from
    0."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    augment: bool
    """Whether training uses random crops and flips."""


def digest(dataset: str, root: Path, images: Images | None = None) -> str:
    """A digest (12 hex digits) of the arrays and class names of a data set.

    images: the data set, if it is loaded already.

    It is computed once for each state of the files (see `state`), and kept in the user's cache
    folder. Raises `UserError` as `load` does.
    """
    now = state(dataset, root)
    if not now:
        return digest_of(images or load(dataset, root))
    from platformdirs import user_cache_path  # here, so that --help is quick

    known = user_cache_path("flowprune") / "data" / now
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if len(text := known.read_text()) == DIGITS:
            return text
    found = digest_of(images or load(dataset, root))
    with contextlib.suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(known, found.encode())
    return found


def check_data(what: str, dataset: str, then: str, now: str) -> None:
    """Raise `UserError` if the digest of a data set has changed since something was computed with
    it. what: the thing, for the message."""
    if then != now:
        raise UserError(
            f"data set {dataset} has changed: its digest is {now}, but {what} was computed with "
            f"{then}; put the old data back, or use another folder of runs"
        )


def check_finished(records: Iterable[Record], root: Path) -> None:
    """Raise `UserError` if the data set of a finished run has changed since.

    Records that cannot be read, and data sets that are not in `root`, are skipped.
    """
    now: dict[str, str | None] = {}
    for record in records:
        try:
            dataset, then = record.config().dataset, record.summary().get("data")
        except UserError:
            continue
        if dataset not in now:
            now[dataset] = digest(dataset, root) if is_present(dataset, root) else None
        if now[dataset] and then:
            check_data(f"run {record.folder.name}", dataset, then, now[dataset])


def state(dataset: str, root: Path) -> str:
    """A digest (32 hex digits) of the paths, sizes and modification times of a data set's files.

    Empty for a data set that is not in `root`, or that a program makes without files.
    """
    files = [file for file in _files(dataset, root) or [] if file.exists()]
    stats = [(str(f.absolute()), (stat := f.stat()).st_size, stat.st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps([dataset, stats]).encode()).hexdigest()[:32] if stats else ""


def _files(dataset: str, root: Path) -> list[Path] | None:
    """The files that `load` reads; None for a data set that a program makes without files."""
    name, path = registry.split(dataset)
    source = registry.load("data", name)
    return source.files(Path(root), path) if hasattr(source, "files") else None


def is_present(dataset: str, root: Path) -> bool:
    """Whether all files of a data set exist."""
    try:
        files = _files(dataset, root)
    except UserError:
        return False
    return files is None or (bool(files) and all(file.exists() for file in files))


def digest_of(images: Images) -> str:
    """A digest (12 hex digits) of shapes, bytes and class names, in a fixed order."""
    total = hashlib.sha256(json.dumps(list(images.classes)).encode())
    for array in (images.train_images, images.train_labels, images.test_images, images.test_labels):
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(memoryview(np.ascontiguousarray(array)).cast("B"))
    return total.hexdigest()[:DIGITS]


def load(dataset: str, root: Path) -> Images:
    """Load a data set (`digits`, `cifar10`, `cifar100`, `folder:PATH`) from the folder `root`.

    CIFAR that is not there is downloaded; the digits are part of scikit-learn.
    Raises `UserError` for a file that is missing or wrong, with a hint where to get it.
    """
    name, path = registry.split(dataset)
    source = registry.load("data", name)
    fits = not path or getattr(source, "TAKES_PATH", False)
    require(fits, "dataset", dataset, f"{name}, which takes no path")
    images = source.load(Path(root), path)
    _check(f"{dataset} (train)", images.train_images, images.train_labels, images.classes)
    _check(f"{dataset} (test)", images.test_images, images.test_labels, images.classes)
    return images


def _check(what: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"{what}: images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{what}: labels must be int64 [{len(images)}], got {got}")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        got = f"{labels.min()} to {labels.max()}" if len(labels) else "no image"
        raise UserError(f"{what}: labels must be from 0 to {len(classes) - 1}, got {got}")
