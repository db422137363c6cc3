"""Work in a process of its own: it has imported nothing yet, and gives all its memory back."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from typing import TypeVar

T = TypeVar("T")


def spawning() -> SpawnContext:
    """What starts new processes in which no file of the working folder hides one of Python's own
    modules: until they have the path of this process, they would look there first."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    return multiprocessing.get_context("spawn")


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function of a module returns (or raises) in a process that is started for it."""
    with spawning().Pool(1) as pool:
        return pool.apply(function, arguments)
