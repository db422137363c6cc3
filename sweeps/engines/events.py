"""What processes that execute runs tell the driver."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """A run finished an epoch."""

    run_id: str
    row: dict
    seconds: float
    """Of training, tests and cuts."""


@dataclass(frozen=True)
class Done:
    """A run ended; its outcome is in the summary."""

    run_id: str
    summary: dict


@dataclass(frozen=True)
class Failed:
    """An attempt at a run raised an error."""

    run_id: str
    error: str
    again: bool
    """Whether another attempt may succeed."""
    memory: bool = False
    """Whether memory ran out."""


@dataclass(frozen=True)
class Waits:
    """The run must be started again later, which is no failed attempt: another process executes it
    or trains the dense phase that it needs, or its machine is gone."""

    run_id: str
    lost: bool = False
    """Whether its machine is gone."""


@dataclass(frozen=True)
class Unwritable:
    """The runs folder cannot be written to: no run can continue."""

    run_id: str
    error: str


@dataclass(frozen=True)
class Ready:
    """The process has imported what runs need, and waits for the first one."""


@dataclass(frozen=True)
class Leaving:
    """The process ends after the next event, because its GPU does not work any more."""


GONE = BrokenPipeError, ConnectionResetError
"""Raised by a pipe whose other end is closed (the second: while events in it were unread)."""
Event = Epoch | Done | Failed | Waits | Unwritable
