"""What the driver and the engines share: the jobs of a grid, and which of them to start next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.locks import BusyError, held
from benchmark.record import Record
from benchmark.schedule import schedule
from sweeps.engines.worker import Failed

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

    def later(self, seconds: float, attempts: int | None = None) -> Job:
        """The job, to be tried in so many seconds; `attempts` if their number changes."""
        attempts = self.attempts if attempts is None else attempts
        return replace(self, attempts=attempts, not_before=time.monotonic() + seconds)


def jobs(configs: Iterable[RunConfig]) -> list[Job]:
    """A job per run, those with the longest dense phase first: the other runs start from it, and
    long runs do not come last."""
    ordered = sorted(configs, key=lambda config: -schedule(config).dense)
    wanted: dict[str, set[int]] = {}
    for config in ordered:
        wanted.setdefault(config.dense().run_id, set()).add(schedule(config).dense)
    return [Job(config, frozenset(wanted[config.dense().run_id] - {0})) for config in ordered]


class DensePhases:
    """How many epochs of each shared dense phase are trained."""

    def __init__(self) -> None:
        self._reached: dict[str, int] = {}

    def note(self, config: RunConfig, epoch: int) -> None:
        """Take note that a run came to this epoch."""
        phase = config.dense().run_id
        self._reached[phase] = max(self._reached.get(phase, 0), min(epoch, schedule(config).dense))

    def choice(self, queue: Iterable[Job], running: Iterable[Job]) -> Job | None:
        """The job to start now: the first that need not wait for the dense phase of a running one,
        else the first; None if none may be tried yet."""
        now, busy = time.monotonic(), {job.config.dense().run_id for job in running}
        due = [job for job in queue if job.not_before <= now]

        def waits(config: RunConfig) -> bool:
            phase = config.dense().run_id
            return phase in busy and schedule(config).dense > self._reached.get(phase, 0)

        return next((job for job in due if not waits(job.config)), due[0] if due else None)


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
