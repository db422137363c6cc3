"""The weights that runs start from: files that a command names.

In a run they are called by a digest of their content. They are looked up among the files that this
process was given, and the copies in folders of runs: `runs/_init/<digest>.pt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.outside import located, looked_in

COPIES = "_init"
"""Folder of the copies, beside the runs."""
FORM = r"([0-9a-f]{12})?"
"""The form of the field `init`."""

_given: dict[str, Path] = {}


def resolve(value: str, folders: Sequence[Path] = (Path(),)) -> str:
    """The digest of the weights in a file (a path, taken relative to the first of the folders where
    it exists), which this process finds from now on; a digest is returned as it is.

    Raises `UserError` for a file that cannot be read, or has no state dict in it.
    """
    if re.fullmatch(FORM, value):
        return value
    from benchmark.models._weights import digest, read_weights  # here, so that --help is quick

    path = located(value, folders)
    found = digest(read_weights(path, what(path)))
    _given[found] = path.absolute()
    return found


def what(path: Path) -> str:
    """What messages call a file of weights."""
    return f"init file {path}"


def adopt(files: Mapping[str, Path]) -> None:
    """Make files {digest: path} known in this process."""
    _given.update(files)


def given() -> dict[str, Path]:
    """The files that this process knows, for another process to `adopt`."""
    return dict(_given)


def find(digest: str) -> Path:
    """The file of these weights. Raises `UserError` if it is not there."""
    files = [_given[digest]] if digest in _given else []
    files += [runs / COPIES / f"{digest}.pt" for runs in looked_in()]
    if found := next((file for file in files if file.exists()), None):
        return found
    raise UserError(
        f"init {digest} is not here: give the file of these weights, --init FILE"
        + "".join(f" (it was {file})" for file in files[:1] if digest in _given)
    )


def keep(digest: str, runs: Path) -> None:
    """Copy the file into a folder of runs, unless it is there, so that they can be continued
    without it."""
    copy = Path(runs) / COPIES / f"{digest}.pt"
    if not copy.exists():
        content = find(digest).read_bytes()
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, content)
