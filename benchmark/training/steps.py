"""Work in steps: a generator that lets other work run while it waits, and between its steps.

It yields the seconds after which it has something to do again (0: at once), and returns a result.
There is no `yield` where a block holds a switch that other work would see: a precision, a mode, a
random state, or a capture.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[float, None, T]


def finished(steps: Steps[T]) -> T:
    """Do all of the work, alone; returns its result."""
    try:
        while True:
            if seconds := next(steps):
                time.sleep(seconds)
    except StopIteration as end:
        return end.value
    except BaseException as end:
        if steps.gi_frame is not None:  # it came while the work slept, which has to clean up
            with contextlib.suppress(StopIteration):
                steps.throw(end)
        raise
