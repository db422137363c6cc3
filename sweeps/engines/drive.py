"""The driver: it starts the runs of a grid on an engine and applies what the engine reports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmark.config import RunConfig
from benchmark.data import check_finished
from benchmark.errors import UserError
from benchmark.files import remove_temporaries
from benchmark.locks import BusyError, held
from benchmark.options import Options
from benchmark.record import DenseFolder, Record
from benchmark.schedule import schedule
from sweeps.engines.events import Done, Epoch, Event, Failed, Unwritable, Waits
from sweeps.engines.jobs import TICK_SECONDS, Job, choice, jobs

BACK_OFF = 2.0
"""Seconds before the second attempt at a run; doubled before each further one."""
BUSY_SECONDS = 1.0
"""Seconds before a run is tried again that another process holds."""


class Engine(Protocol):
    """Executes runs in other processes. It is made when there is something to run."""

    ahead: int
    """Runs to start beyond `slots`, so that no process waits for the driver."""

    def slots(self) -> int:
        """How many runs can be executed at once; the number may change."""

    def start(self, job: Job) -> None:
        """Start a run, or put it where the next free process finds it."""

    def events(self) -> list[Event]:
        """Wait up to a tick; what started runs report. Any event but `Epoch` ends an attempt."""

    def stop(self) -> None:
        """Stop all processes, without losing a finished epoch."""


@dataclass
class Outcome:
    """What became of a grid."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """{run id: error}"""
    bare: list[str] = field(default_factory=list)
    """Finished runs without the final net, which was asked for now."""
    wall: float = 0.0
    """Seconds, times the number of runs that could be executed at once."""
    busy: float = 0.0
    """Seconds of training, tests and cuts in all processes."""


def drive(
    configs: list[RunConfig],
    options: Options,
    engine: Callable[[Options, list[RunConfig]], Engine],
    watch: Callable[[Event], None],
    *,
    retries: int = 2,
    at_work: Callable[[Sequence[str]], None] = lambda run_ids: None,
) -> Outcome:
    """Run what is not finished. `engine` makes an engine for the runs that are left.

    `watch` gets each epoch, and each run that ends; `at_work` gets the ids of the runs that the
    engine has. A failed run is tried again `retries` times,
    unless its input is wrong. Raises `UserError` if the records cannot be written, or a finished
    run was made with other data.
    """
    outcome = Outcome()
    queue = unfinished(configs, options, outcome)
    if queue:
        started = engine(options, [job.config for job in queue])
        try:
            _work(queue, started, watch, outcome, retries, at_work)
        finally:
            started.stop()
    tidy(configs, options.runs)
    return outcome


def _work(
    queue: list[Job],
    engine: Engine,
    watch: Callable[[Event], None],
    outcome: Outcome,
    retries: int,
    at_work: Callable[[Sequence[str]], None],
) -> None:
    most = len(queue)
    running: dict[str, Job] = {}
    reached: dict[str, int] = {}
    while queue or running:
        begin, slots = time.monotonic(), engine.slots()
        while len(running) < slots + engine.ahead and (
            job := choice(queue, running.values(), reached)
        ):
            queue.remove(job)
            running[job.config.run_id] = job
            engine.start(job)
        at_work(list(running))
        if not running:
            time.sleep(TICK_SECONDS)
        for event in engine.events() if running else ():
            job = running[event.run_id]
            if isinstance(event, Epoch):
                trained = min(event.row["epoch"], schedule(job.config).dense)
                reached[job.phase] = max(reached.get(job.phase, 0), trained)
            else:
                del running[event.run_id]
            if told := applied(event, job, queue, outcome, retries):
                watch(told)
        outcome.wall += (time.monotonic() - begin) * min(slots, most)


def unfinished(configs: list[RunConfig], options: Options, outcome: Outcome) -> list[Job]:
    """The jobs of a grid, in order; marks the states of dense phases that they start from.

    Raises `UserError` if the runs folder cannot be written to, or a finished run was made with
    other data.
    """
    left, finished = [], []
    for config in configs:
        record = Record(options.runs / config.run_id)
        finished.append(record) if record.finished else left.append(config)
    check_finished(finished, options.data)
    outcome.skipped += [record.folder.name for record in finished]
    if options.keep_model:
        outcome.bare += [r.folder.name for r in finished if not r.model_file.exists()]
    queue = jobs(left)
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        for job in queue:
            if epoch := schedule(job.config).dense:
                DenseFolder(options.runs, job.config).want(epoch)
    except OSError as error:
        raise UserError(
            f"runs folder {options.runs} cannot be written to ({error.strerror})"
        ) from None
    return queue


def applied(
    event: Event, job: Job, queue: list[Job], outcome: Outcome, retries: int
) -> Event | None:
    """Apply an event to the queue and the outcome; return it if the user should see it."""
    match event:
        case Epoch(seconds=seconds):
            outcome.busy += seconds
        case Done(run_id=run_id):
            outcome.done.append(run_id)
        case Waits(lost=lost):
            queue.append(job.later(BUSY_SECONDS))
            return event if lost else None
        case Failed(again=True) if job.attempts < retries:
            queue.append(job.later(BACK_OFF * 2**job.attempts, attempts=job.attempts + 1))
            return None
        case Failed(run_id=run_id, error=error):
            outcome.failed[run_id] = error
        case Unwritable(error=error):
            raise UserError(f"the records cannot be written ({error}); finished work is intact")
    return event


def tidy(configs: list[RunConfig], runs: Path) -> None:
    """Remove the files that killed processes left, except where a process is at work."""
    for phase in {config.phase: DenseFolder(runs, config) for config in configs}.values():
        if phase.folder.is_dir():
            with contextlib.suppress(BusyError, OSError), held(phase.lock_file, wait=False):
                remove_temporaries(phase.folder)
    for config in configs:
        record = Record(runs / config.run_id)
        if record.folder.is_dir():
            record.tidy()
