"""Locks between processes. The operating system frees a lock when its owner dies, even by kill
-9."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

WINDOWS = os.name == "nt"


class BusyError(Exception):
    """Another process holds a lock that this one needs."""


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock `path`, in a folder that exists, for a block. If another process holds it: wait
    for it, or raise `BusyError`.

    The owner removes the file; a process that waited for a removed file locks a new one.
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
        if WINDOWS and not removed:  # Windows does not remove open files
            _removed(path)


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the next owner removes it
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock; this process need not have write permission."""
    if not path.exists():
        return False
    try:
        with held(path, wait=False):
            return False
    except BusyError:
        return True
    except OSError:  # another user's folder, or a read-only disk
        return is_locked(path)


def is_locked(path: Path) -> bool:
    """Whether the operating system has a lock on a file (always False on Windows)."""
    try:
        import fcntl  # here, because only POSIX systems have it
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it has been removed, or cannot be read
        return False
    return False
