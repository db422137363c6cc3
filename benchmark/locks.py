"""Locks between processes. The operating system frees a lock when its owner dies, even by kill
-9."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:
    fcntl = None  # on Windows

WINDOWS = os.name == "nt"


class BusyError(Exception):
    """Another process holds a lock that this one needs."""


@contextlib.contextmanager
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
        if WINDOWS:  # which removes no open files
            lock.release()
        with contextlib.suppress(OSError):  # the next owner removes it
            path.unlink(missing_ok=True)
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. On POSIX systems, permission to read the file
    is enough."""
    try:
        if not fcntl and path.exists():
            with held(path, wait=False):
                return False
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, BusyError):
        return True
    except OSError:  # the file does not exist, or cannot be read
        return False
    return False
