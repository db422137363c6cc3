"""Locks between processes. The operating system frees a lock when its owner dies, also over a kill -9."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class BusyError(Exception):
    """Another process holds what this one needs."""


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock `path`, whose folder exists. If another process has it: wait for it, or raise `BusyError`.

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
        try:
            path.unlink(missing_ok=True)
        finally:
            lock.release()


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
    import fcntl  # here, because only POSIX systems have it

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it was removed meanwhile, or cannot be read
        return False
    return False
