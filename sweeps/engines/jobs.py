"""What the driver and the engines share: the jobs of a grid, and which of them to start next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.locks import BusyError, held
from benchmark.record import Record
from benchmark.schedule import schedule
from sweeps.engines.events import Failed

TICK_SECONDS = 0.5
"""Longest wait for events."""
STOP_SECONDS = 10.0
"""Time that a process gets to stop, before it is killed."""


@dataclass(frozen=True)
class Job:
    """A run that is not finished."""

    config: RunConfig
    wanted: frozenset[int] = frozenset()
    """Epochs at which runs of the grid start from the dense phase of this run."""
    attempts: int = 0
    """Attempts that failed so far."""
    not_before: float = 0.0
    """When it may be tried (again), by the monotonic clock."""

    @cached_property
    def phase(self) -> str:
        """The dense phase that the run starts from."""
        return self.config.phase

    def later(self, seconds: float, **changes: int) -> Job:
        """The job, to be tried in so many seconds, with other changes of its fields."""
        return replace(self, not_before=time.monotonic() + seconds, **changes)


def jobs(configs: Iterable[RunConfig]) -> list[Job]:
    """A job per run, those with the longest dense phase first: the other runs start from it, and
    long runs do not come last."""
    ordered = sorted(map(Job, configs), key=lambda job: -schedule(job.config).dense)
    wanted: dict[str, set[int]] = {}
    for job in ordered:
        wanted.setdefault(job.phase, set()).add(schedule(job.config).dense)
    return [replace(job, wanted=frozenset(wanted[job.phase] - {0})) for job in ordered]


def choice(queue: Iterable[Job], running: Iterable[Job], reached: Mapping[str, int]) -> Job | None:
    """The job to start now: the first that need not wait for the dense phase of a running one, else
    the first; None if none may be tried yet.

    reached: {dense phase: epochs of it that are trained}.
    """
    now, busy = time.monotonic(), {job.phase for job in running}
    due = [job for job in queue if job.not_before <= now]
    free = (
        job
        for job in due
        if job.phase not in busy or schedule(job.config).dense <= reached.get(job.phase, 0)
    )
    return next(free, due[0] if due else None)


def noted_failure(runs: Path, config: RunConfig, error: str) -> Failed:
    """Write the error of a run that could not do so itself into its record; another attempt may
    succeed."""
    record = Record(runs / config.run_id)
    # another process may execute the run by now, or the folder may be read-only
    with contextlib.suppress(BusyError, OSError):
        record.folder.mkdir(parents=True, exist_ok=True)
        with held(record.lock_file, wait=False):
            record.start(config)
            record.fail(error, "")
    return Failed(config.run_id, error, again=True)
