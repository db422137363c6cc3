"""Work in a process of its own: it has imported nothing yet, and gives all its memory back."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Lock
from typing import TypeVar

from benchmark import outside

T = TypeVar("T")
SAFE_PATH = "PYTHONSAFEPATH"
_starting = Lock()


class _Process(SpawnProcess):
    """A new process. No file of the working folder hides one of Python's own modules: a new Python
    would look there first until it has the path of this process."""

    def start(self) -> None:
        with _starting:
            before = os.environ.get(SAFE_PATH)
            os.environ[SAFE_PATH] = before or "1"
            try:
                super().start()
            finally:
                if before is None:
                    del os.environ[SAFE_PATH]


class _Context(SpawnContext):
    Process = _Process


def spawning() -> SpawnContext:
    """What starts new processes."""
    return _Context()


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function of a module returns (or raises) in a process that is started for it. The
    process knows the components from outside that this one knows."""
    with spawning().Pool(1, outside.adopt, (outside.given(),)) as pool:
        return pool.apply(function, arguments)
