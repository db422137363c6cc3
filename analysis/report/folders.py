"""Folders that results are written into."""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import UserError


def make_folders(*folders: Path) -> None:
    """Make folders, and those that they lie in. Raises `UserError` for one that cannot be made."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"report folder {folder} cannot be made ({error.strerror})") from None
