"""One worker process: it loads torch once and then runs what it is given."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.options import Options
from benchmark.record import Record


@dataclass(frozen=True)
class Epoch:
    """A run came one epoch further."""

    run_id: str
    row: dict
    images: int


@dataclass(frozen=True)
class Done:
    """A run came to its end."""

    run_id: str
    summary: dict


@dataclass(frozen=True)
class Failed:
    """A run raised an error."""

    run_id: str
    error: str
    log: str


def work(pipe: Connection, options: Options) -> None:
    """Receive configurations, run them, send events; None (or a closed pipe) ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the driver decides
    options.prepare()
    from benchmark.run import Progress, run

    def watch(progress: Progress) -> None:
        pipe.send(Epoch(progress.run_id, progress.row, progress.images))

    try:
        while (config := pipe.recv()) is not None:
            pipe.send(_attempt(run, config, options, watch))
    except (EOFError, BrokenPipeError):
        return  # the driver is gone


def _attempt(run, config: RunConfig, options: Options, watch) -> Done | Failed:
    try:
        return Done(config.run_id, run(config, options, watch))
    except BrokenPipeError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        message, log = " ".join(f"{kind}{error}".split()), traceback.format_exc()
        record = Record(options.runs / config.run_id)
        record.start(config)
        record.fail(message, log)
        return Failed(config.run_id, message, log)
