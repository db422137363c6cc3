"""Reading and writing the files of a record, which survive a kill at any moment and a power cut.

A file that another one relies on is brought to the disk first (POSIX: fsync, then rename).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path

from benchmark.errors import UserError

TAIL_BYTES = 65_536
"""More than the longest line of a history."""
BINARY = getattr(os, "O_BINARY", 0)
"""Without it Windows translates the ends of lines."""
DIGITS = 12
"""Hex digits of a digest."""


def short_digest(content: bytes) -> str:
    """The first hex digits of the SHA-256 of a content."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Replace the file `path`, and keep the old one as `previous`. The content is on the disk
    before the file gets its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write(temporary, content, os.O_CREAT | os.O_TRUNC, durable=True)
    if previous and path.exists():
        os.replace(path, previous)
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.glob(".*.tmp"):
        remove(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; on Windows only files."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, flags: int, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | BINARY | flags, 0o666)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict) -> None:
    """Replace a file by a JSON object, as a whole or not at all; NaN and infinity become null."""
    write_atomically(path, _line(value, indent=1))


def read_json(path: Path) -> dict:
    """Read a file that `write_json` wrote. Raises `UserError` if it is missing or broken."""
    try:
        return _parsed(path.read_bytes(), f"record file {path}")
    except FileNotFoundError:
        raise UserError(f"record file {path} is missing") from None
    except OSError as error:
        raise UserError(f"record file {path} cannot be read ({error.strerror})") from None


def append_line(path: Path, row: dict) -> None:
    """Append one JSON object as a line."""
    _write(path, _line(row), os.O_CREAT | os.O_APPEND, durable=False)


def write_lines(path: Path, rows: list[dict]) -> None:
    """Replace a file of JSON lines."""
    write_atomically(path, as_lines(rows))


def as_lines(rows: list[dict]) -> bytes:
    """What a file of JSON lines with these rows has in it."""
    return b"".join(map(_line, rows))


def read_lines(path: Path) -> list[dict]:
    """All rows of a file of JSON lines, without a last line that a killed process left
    incomplete."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    try:
        rows = json.loads(b"[%s]" % b",".join(lines))  # half the time of line by line
    except ValueError:
        rows = []
    if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows):
        return rows
    return [
        _parsed(line, f"record file {path}, line {number},")
        for number, line in enumerate(lines, start=1)
    ]


def last_line(path: Path) -> dict | None:
    """The last row of a file of JSON lines; None without any."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        *lines, _ = file.read().split(b"\n")
    return _parsed(lines[-1], f"record file {path}, last line,") if lines else None


def _parsed(text: bytes, what: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def _line(value: dict, indent: int | None = None) -> bytes:
    return (json.dumps(_plain(value), indent=indent, allow_nan=False) + "\n").encode()


def _plain(value: object) -> object:
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
