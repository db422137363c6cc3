"""Work in a process of its own: it has imported nothing yet, and gives all its memory back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function of a module returns (or raises) in a process that is started for it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
