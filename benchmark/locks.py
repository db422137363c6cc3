"""Locks between processes. The operating system frees a lock when its owner dies, also over a kill
-9."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

WINDOWS = os.name == "nt"


class BusyError(Exception):
    """Another process holds what this one needs."""


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock `path`, whose folder exists. If another process has it: wait for it, or raise
    `BusyError`.

    The file is removed by its owner; who waited for a removed one starts over with a new one.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
    except Timeout:
        raise BusyError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        removed = _removed(path)
        lock.release()
        if WINDOWS and not removed:  # it removes no open file: whoever has it by now keeps it
            _removed(path)


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a file that stays is tidied by whoever comes next
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether some process holds the lock, also where this one may only read."""
    if not path.exists():
        return False
    try:
        with held(path, wait=False):
            return False
    except BusyError:
        return True
    except OSError:  # another user's folder, or a disk that is mounted to be read
        return _is_locked(path)


def _is_locked(path: Path) -> bool:
    try:
        import fcntl  # here, because only POSIX systems have it
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it was removed meanwhile, or cannot be read
        return False
    return False
