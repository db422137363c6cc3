"""The local engine: long-lived worker processes that work through a grid."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from multiprocessing.connection import wait

from benchmark.config import RunConfig
from benchmark.options import Options
from sweeps.engines.jobs import (
    STOP_SECONDS,
    TICK_SECONDS,
    Job,
    Outcome,
    Watch,
    due,
    noted_failure,
    settled,
    tidy,
    unfinished,
)
from sweeps.engines.worker import Epoch, Event, Ready, work
from sweeps.placement import placement

START_SECONDS = 120.0
"""How long a worker may take until it is ready, where epochs have a limit."""


def drive(
    configs: list[RunConfig],
    options: Options,
    workers: int,
    watch: Watch,
    *,
    per_gpu: int = 0,
    retries: int = 2,
    epoch_limit: float = 0.0,
) -> Outcome:
    """Run what is not finished, in `workers` processes (0: `per_gpu` on each GPU, or one per core
    without any).

    `per_gpu` 0 means as many as fit. An interruption stops the workers; no finished epoch is lost.
    A worker that dies, or brings no epoch to its end in `epoch_limit` seconds (0: no limit), is
    replaced. A run is tried again `retries` times, unless its input is wrong. Raises `UserError` if
    the records cannot be written.
    """
    outcome, start = Outcome(), time.monotonic()
    queue = unfinished(configs, options, outcome)
    places = placement(options, workers, per_gpu, [job.config for job in queue]) if queue else []
    pool = [_Worker(place) for place in places[: len(queue)]]
    try:
        while queue or any(worker.job for worker in pool):
            for i, worker in enumerate(pool):
                if not worker.job and (jobs := due(queue)):
                    if not worker.process.is_alive():
                        pool[i] = worker = _Worker(worker.options)
                    queue.remove(jobs[0])
                    worker.give(jobs[0])
            for worker, event in _events(pool, epoch_limit):
                job = worker.job
                if not isinstance(event, Epoch):
                    worker.job = None
                if event := settled(event, job, queue, outcome, retries):
                    watch(event)
    finally:
        for worker in pool:
            worker.ask_to_stop()
        for worker in pool:
            worker.stop()
        outcome.wall = (time.monotonic() - start) * max(len(pool), 1)
    tidy(configs, options.runs)
    return outcome


class _Worker:
    def __init__(self, options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.options = options
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.ready = False
        self.heard = time.monotonic()

    def give(self, job: Job) -> None:
        self.job, self.heard = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: receiving will say so
            self.pipe.send(job.config)

    def receive(self) -> Event | Ready:
        self.heard, self.ready = time.monotonic(), True
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            memory = ", as if out of memory" if status == -9 else ""
            return noted_failure(
                self.options.runs, self.job.config, f"the worker died ({how}{memory})"
            )

    def silent(self, limit: float) -> bool:
        """Whether it has said nothing for longer than an epoch may take (or a start, on a busy
        machine)."""
        return time.monotonic() - self.heard > (limit if self.ready else max(limit, START_SECONDS))

    def give_up(self, limit: float) -> Event:
        self.process.kill()
        self.process.join()
        return noted_failure(
            self.options.runs, self.job.config, f"no epoch came to its end within {limit:g} s"
        )

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
    silent = [
        worker for worker in busy.values() if limit and worker not in ready and worker.silent(limit)
    ]
    given_up = [(worker, worker.give_up(limit)) for worker in silent]
    return [(worker, event) for worker, event in events + given_up if not isinstance(event, Ready)]
