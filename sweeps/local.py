"""The local engine: long-lived worker processes that work through a grid."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.locks import BusyError, held
from benchmark.options import Options
from benchmark.record import DenseFolder, Record, remove_temporaries
from benchmark.schedule import schedule
from sweeps.worker import Done, Epoch, Event, Failed, Unwritable, Waits, work

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
class _Job:
    config: RunConfig
    attempts: int = 0
    not_before: float = 0.0


def drive(
    configs: list[RunConfig],
    options: Options,
    workers: int,
    watch: Watch,
    *,
    retries: int = 2,
    epoch_limit: float = 0.0,
) -> Outcome:
    """Run what is not finished, in `workers` processes. An interruption stops the workers; no finished epoch is lost.

    A worker that dies, or brings no epoch to its end in `epoch_limit` seconds (0: no limit), is replaced. A run is
    tried again `retries` times, unless its input is wrong. Raises `UserError` if the records cannot be written.
    """
    outcome, start = Outcome(), time.monotonic()
    queue = []
    for config in in_order(configs):
        finished = Record(options.runs / config.run_id).finished
        (outcome.skipped.append(config.run_id) if finished else queue.append(_Job(config)))
    _prepare(queue, options)
    options = replace(options, threads=threads(options, workers))
    pool = [_Worker(options) for _ in range(min(workers, len(queue)))]
    try:
        while queue or any(worker.job for worker in pool):
            for i, worker in enumerate(pool):
                if not worker.job and (job := _due(queue)):
                    if not worker.process.is_alive():
                        pool[i] = worker = _Worker(options)
                    queue.remove(job)
                    worker.give(job)
            for worker, event in _events(pool, epoch_limit):
                job = worker.job
                if not isinstance(event, Epoch):
                    worker.job = None
                if event := _settled(event, job, queue, outcome, retries):
                    watch(event)
    finally:
        for worker in pool:
            worker.ask_to_stop()
        for worker in pool:
            worker.stop()
        outcome.wall = (time.monotonic() - start) * max(len(pool), 1)
    _tidy(configs, options.runs)
    return outcome


def in_order(configs: list[RunConfig]) -> list[RunConfig]:
    """Longest dense phase first: the others start from it, and long runs do not come last."""
    return sorted(configs, key=lambda config: -schedule(config).dense)


def threads(options: Options, workers: int) -> int:
    """CPU threads per worker: what was asked for, or an equal share of the cores."""
    return options.threads or max(1, (os.cpu_count() or 1) // workers)


def _prepare(queue: list[_Job], options: Options) -> None:
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        for job in queue:
            if dense := schedule(job.config).dense:
                DenseFolder(options.runs, job.config).want(dense)
    except OSError as error:
        raise UserError(f"runs folder {options.runs} cannot be written to ({error.strerror})") from None


def _due(queue: list[_Job]) -> _Job | None:
    now = time.monotonic()
    return next((job for job in queue if job.not_before <= now), None)


def _settled(event: Event, job: _Job, queue: list[_Job], outcome: Outcome, retries: int) -> Event | None:
    """Draw the consequences of an event; returns what there is to tell."""
    run_id = job.config.run_id
    match event:
        case Epoch(seconds=seconds):
            outcome.busy += seconds
        case Done():
            outcome.done.append(run_id)
        case Waits():
            queue.append(replace(job, not_before=time.monotonic() + BUSY_SECONDS))
            return None
        case Failed(again=True) if job.attempts < retries:
            pause = BACK_OFF * 2**job.attempts
            queue.append(replace(job, attempts=job.attempts + 1, not_before=time.monotonic() + pause))
            return None
        case Failed(error=error):
            outcome.failed[run_id] = error
        case Unwritable(error=error):
            raise UserError(f"the records cannot be written ({error}); what is there is intact")
    return event


class _Worker:
    def __init__(self, options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.runs = options.runs
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()
        self.job: _Job | None = None
        self.heard = 0.0

    def give(self, job: _Job) -> None:
        self.job, self.heard = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: receiving will say so
            self.pipe.send(job.config)

    def receive(self) -> Event:
        self.heard = time.monotonic()
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            return self._failed(f"the worker died ({how}{', as if out of memory' if status == -9 else ''})")

    def give_up(self, limit: float) -> Event:
        self.process.kill()
        self.process.join()
        return self._failed(f"no epoch came to its end within {limit:g} s")

    def _failed(self, error: str) -> Failed:
        config = self.job.config
        record = Record(self.runs / config.run_id)
        with contextlib.suppress(BusyError, OSError):  # another process is at it already, or nothing can be written
            record.folder.mkdir(parents=True, exist_ok=True)
            with held(record.lock_file, wait=False):
                record.start(config)
                record.fail(error, "")
        return Failed(config.run_id, error, again=True)

    def ask_to_stop(self) -> None:
        self.pipe.close()
        self.process.terminate()

    def stop(self) -> None:
        self.process.join(STOP_SECONDS)
        self.process.kill()
        self.process.join()


def _events(pool: list[_Worker], limit: float) -> list[tuple[_Worker, Event]]:
    """What busy workers have to say within a tick, and that some have been silent for too long."""
    busy = {worker.pipe: worker for worker in pool if worker.job}
    if not busy:
        time.sleep(TICK_SECONDS)
        return []
    ready = [busy[pipe] for pipe in wait(list(busy), timeout=TICK_SECONDS)]
    events = [(worker, worker.receive()) for worker in ready]
    now = time.monotonic()
    silent = [w for w in busy.values() if limit and w not in ready and now - w.heard > limit]
    return events + [(worker, worker.give_up(limit)) for worker in silent]


def _tidy(configs: list[RunConfig], runs: Path) -> None:
    """Remove what killed processes left behind, where no process is at work."""
    folders = {DenseFolder(runs, config).folder for config in configs}
    records = {Record(runs / config.run_id) for config in configs}
    for folder in [*folders, *(record.folder for record in records)]:
        if folder.is_dir():
            with contextlib.suppress(BusyError), held(folder / ".lock", wait=False):
                remove_temporaries(folder)
    for record in records:
        if record.finished:
            record.drop_checkpoints()
