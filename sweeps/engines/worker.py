"""One worker process: it loads torch once and then runs what it is given."""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

from benchmark.cli import UNWRITABLE
from benchmark.config import RunConfig
from benchmark.errors import ShortageError, UserError
from benchmark.locks import BusyError
from benchmark.options import Options
from benchmark.record import Record


@dataclass(frozen=True)
class Epoch:
    """A run came one epoch further."""

    run_id: str
    row: dict
    seconds: float


@dataclass(frozen=True)
class Done:
    """A run came to its end."""

    run_id: str
    summary: dict


@dataclass(frozen=True)
class Failed:
    """An attempt at a run raised an error."""

    run_id: str
    error: str
    again: bool
    """Whether another attempt may succeed."""


@dataclass(frozen=True)
class Waits:
    """Another process executes the run, or trains the dense phase that it needs."""

    run_id: str


@dataclass(frozen=True)
class Lost:
    """The machine that executed the run is gone, which is not the run's fault: it goes on
    elsewhere."""

    run_id: str


@dataclass(frozen=True)
class Unwritable:
    """The folder of the runs cannot be written to: there is no point in going on."""

    run_id: str
    error: str


@dataclass(frozen=True)
class Ready:
    """The process has started and imported what runs need."""


GONE = BrokenPipeError, ConnectionResetError
"""What a pipe raises whose other end is closed, in the latter case with unread events in it."""
Event = Epoch | Done | Failed | Waits | Lost | Unwritable


def work(pipe: Connection, options: Options) -> None:
    """Receive configurations, run them, send events; a closed pipe ends the worker."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole group; the driver decides
    signal.signal(signal.SIGTERM, _stop)
    options.prepare()
    importlib.import_module("benchmark.run")  # torch, which the driver does without
    try:
        pipe.send(Ready())
        while True:
            pipe.send(attempt(pipe.recv(), options, pipe.send))
    except (
        EOFError,
        *GONE,
    ):  # the driver has died, or has closed the pipe and sends SIGTERM just now
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(*_: object) -> NoReturn:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # the driver sends one too, when the whole group got one
    sys.exit(128 + signal.SIGTERM)


def attempt(config: RunConfig, options: Options, tell: Callable[[Epoch], None]) -> Event:
    """Bring a run to its end, or as far as it gets, and say how it went; `tell` hears of each
    epoch."""
    from benchmark.run import Progress, run  # here, so that the driver needs no torch

    def watch(progress: Progress) -> None:
        tell(Epoch(progress.run_id, progress.row, progress.seconds))

    try:
        return Done(config.run_id, run(config, options, watch, wait=False))
    except GONE:
        raise
    except BusyError:
        return Waits(config.run_id)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            return Unwritable(config.run_id, str(error))
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        message = " ".join(f"{kind}{error}".split())
        record = Record(options.runs / config.run_id)
        if not record.config_file.exists():
            record.start(config)
        record.fail(message, traceback.format_exc())
        again = isinstance(error, ShortageError) or not isinstance(error, UserError)
        return Failed(config.run_id, message, again)
