"""A worker process, which loads torch once and then executes one run after another."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from benchmark import initial
from benchmark.cli import UNWRITABLE
from benchmark.config import RunConfig
from benchmark.errors import ShortageError, UserError, is_out_of_memory
from benchmark.locks import BusyError
from benchmark.options import Options
from benchmark.outside import Component, adopt
from benchmark.record import Record


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


def work(
    pipe: Connection,
    options: Options,
    components: Sequence[Component] = (),
    weights: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Receive configurations, run them, send events; a closed pipe ends the worker.

    components: those from outside that the runs may name. weights: files of initial weights, by
    digest.
    """
    adopt(components)
    initial.adopt(weights)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver too, which decides
    signal.signal(signal.SIGTERM, _stop)
    options.prepare()
    importlib.import_module("benchmark.run")  # torch, which the driver does without
    try:
        pipe.send(Ready())
        while True:
            event = attempt(pipe.recv(), options, pipe.send)
            usable = gpu_works()
            if not usable:
                pipe.send(Leaving())
            pipe.send(event)
            if not usable:
                os._exit(1)  # CUDA's own clean-up would fail
    except (EOFError, *GONE):  # the driver has died, or is about to send SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def gpu_works() -> bool:
    """Give back the memory that a run took on the GPU; whether the process can still use it.

    After some errors (an illegal memory access, say) all later calls of CUDA in a process fail.
    """
    import torch

    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the clean-up
    sys.exit(128 + signal.SIGTERM)


def attempt(config: RunConfig, options: Options, tell: Callable[[Epoch], None]) -> Event:
    """Execute a run as far as it gets; returns how it ended. `tell` gets each epoch."""
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
        return Failed(config.run_id, message, again, is_out_of_memory(error))
