"""What the engines share: the jobs of a grid, when each is due, and what becomes of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.data import check_finished
from benchmark.errors import UserError
from benchmark.files import remove_temporaries
from benchmark.locks import BusyError, held
from benchmark.options import Options
from benchmark.record import DenseFolder, Record
from benchmark.schedule import schedule
from sweeps.engines.worker import Done, Epoch, Event, Failed, Lost, Unwritable, Waits

Watch = Callable[[Event], None]

BACK_OFF = 2.0
"""Seconds before the second attempt at a run; doubled before each further one."""
BUSY_SECONDS = 1.0
TICK_SECONDS = 0.5
STOP_SECONDS = 10.0


@dataclass
class Outcome:
    """What became of a grid."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """{run id: error}"""
    wall: float = 0.0
    """Seconds, times the number of workers."""
    busy: float = 0.0
    """Seconds of training, tests and cuts in all workers."""


@dataclass
class Job:
    """A run that is not finished."""

    config: RunConfig
    attempts: int = 0
    """Attempts that failed so far."""
    not_before: float = 0.0
    """When it may be tried (again), by the monotonic clock."""


def in_order(configs: list[RunConfig]) -> list[RunConfig]:
    """Longest dense phase first: the others start from it, and long runs do not come last."""
    return sorted(configs, key=lambda config: -schedule(config).dense)


def unfinished(configs: list[RunConfig], options: Options, outcome: Outcome) -> list[Job]:
    """The jobs of a grid, in order; the states of dense phases that they start from are marked as
    wanted.

    Raises `UserError` if the folder of the runs cannot be written to, or a finished run was made
    with other data.
    """
    queue, skipped = [], []
    for config in in_order(configs):
        record = Record(options.runs / config.run_id)
        skipped.append(record) if record.finished else queue.append(Job(config))
    check_finished(skipped, options.data)
    outcome.skipped += [record.folder.name for record in skipped]
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        for job in queue:
            if dense := schedule(job.config).dense:
                DenseFolder(options.runs, job.config).want(dense)
    except OSError as error:
        raise UserError(
            f"runs folder {options.runs} cannot be written to ({error.strerror})"
        ) from None
    return queue


def due(queue: list[Job]) -> list[Job]:
    """The jobs that may be tried now."""
    now = time.monotonic()
    return [job for job in queue if job.not_before <= now]


def settled(
    event: Event, job: Job, queue: list[Job], outcome: Outcome, retries: int
) -> Event | None:
    """Draw the consequences of an event; returns what there is to tell."""
    run_id = job.config.run_id
    match event:
        case Epoch(seconds=seconds):
            outcome.busy += seconds
        case Done():
            outcome.done.append(run_id)
        case Waits() | Lost():
            queue.append(replace(job, not_before=time.monotonic() + BUSY_SECONDS))
            return event if isinstance(event, Lost) else None
        case Failed(again=True) if job.attempts < retries:
            pause = BACK_OFF * 2**job.attempts
            queue.append(
                replace(job, attempts=job.attempts + 1, not_before=time.monotonic() + pause)
            )
            return None
        case Failed(error=error):
            outcome.failed[run_id] = error
        case Unwritable(error=error):
            raise UserError(f"the records cannot be written ({error}); what is there is intact")
    return event


class DensePhases:
    """The shared dense phases of a grid: at which epochs runs start from each, and how far it has
    come."""

    def __init__(self, queue: list[Job]) -> None:
        self._wanted: dict[str, set[int]] = {}
        self._reached: dict[str, int] = {}
        for job in queue:
            if dense := schedule(job.config).dense:
                self._wanted.setdefault(job.config.dense().run_id, set()).add(dense)

    def wanted(self, config: RunConfig) -> set[int]:
        """The epochs at which runs start from the dense phase of this one."""
        return self._wanted.get(config.dense().run_id, set())

    def note(self, config: RunConfig, epoch: int) -> None:
        """A run came to this epoch."""
        phase = config.dense().run_id
        self._reached[phase] = max(self._reached.get(phase, 0), min(epoch, schedule(config).dense))

    def first(self, jobs: list[Job], running: Iterable[RunConfig]) -> Job | None:
        """The job to begin next: the first that need not wait for what a running one trains, else
        the first."""
        busy = {config.dense().run_id for config in running}

        def waits(config: RunConfig) -> bool:
            phase = config.dense().run_id
            return phase in busy and schedule(config).dense > self._reached.get(phase, 0)

        return next((job for job in jobs if not waits(job.config)), jobs[0] if jobs else None)


def noted_failure(runs: Path, config: RunConfig, error: str) -> Failed:
    """Note in its record why a run failed that cannot say so itself; another attempt may
    succeed."""
    record = Record(runs / config.run_id)
    with contextlib.suppress(
        BusyError, OSError
    ):  # another process is at it already, or nothing can be written
        record.folder.mkdir(parents=True, exist_ok=True)
        with held(record.lock_file, wait=False):
            record.start(config)
            record.fail(error, "")
    return Failed(config.run_id, error, again=True)


def tidy(configs: list[RunConfig], runs: Path) -> None:
    """Remove what killed processes left behind, where no process is at work."""
    for folder in {DenseFolder(runs, config).folder for config in configs}:
        if folder.is_dir():
            with contextlib.suppress(BusyError, OSError), held(folder / ".lock", wait=False):
                remove_temporaries(folder)
    for config in configs:
        record = Record(runs / config.run_id)
        if record.folder.is_dir():
            record.tidy()
