"""The local engine: long-lived worker processes that work through a grid."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait

from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.record import DenseFolder, Record
from benchmark.schedule import schedule
from sweeps.worker import Done, Epoch, Failed, work

Event = Epoch | Done | Failed
Watch = Callable[[Event], None]


@dataclass
class Outcome:
    """What became of a grid."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """{run id: error}"""


def drive(configs: list[RunConfig], options: Options, workers: int, watch: Watch) -> Outcome:
    """Run what is not finished, in `workers` processes. Ctrl-C stops the workers; nothing finished is lost."""
    outcome = Outcome()
    queue = []
    for config in in_order(configs):
        finished = Record(options.runs / config.run_id).finished
        (outcome.skipped.append(config.run_id) if finished else queue.append(config))
        if not finished and schedule(config).dense:
            DenseFolder(options.runs, config).want(schedule(config).dense)
    options = replace(options, threads=threads(options, workers))
    pool = [_Worker(options) for _ in range(min(workers, len(queue)))]
    try:
        while queue or any(worker.config for worker in pool):
            for worker in pool:
                if queue and not worker.config:
                    worker.give(queue.pop(0))
            for worker in _ready(pool):
                event = worker.receive()
                _note(event, outcome)
                watch(event)
                if not worker.process.is_alive():
                    pool[pool.index(worker)] = _Worker(options)
    finally:
        for worker in pool:
            worker.stop()
    return outcome


def in_order(configs: list[RunConfig]) -> list[RunConfig]:
    """Longest dense phase first: the others start from it, and long runs do not come last."""
    return sorted(configs, key=lambda config: -schedule(config).dense)


def threads(options: Options, workers: int) -> int:
    """CPU threads per worker: what was asked for, or an equal share of the cores."""
    return options.threads or max(1, (os.cpu_count() or 1) // workers)


class _Worker:
    def __init__(self, options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()
        self.config: RunConfig | None = None

    def give(self, config: RunConfig) -> None:
        self.config = config
        self.pipe.send(config)

    def receive(self) -> Event:
        assert self.config
        try:
            event = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            event = Failed(self.config.run_id, f"the worker died (exit status {self.process.exitcode})", "")
        if not isinstance(event, Epoch):
            self.config = None
        return event

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _ready(pool: list[_Worker]) -> list[_Worker]:
    busy = {worker.pipe: worker for worker in pool if worker.config}
    return [busy[pipe] for pipe in wait(list(busy))]


def _note(event: Event, outcome: Outcome) -> None:
    if isinstance(event, Done):
        outcome.done.append(event.run_id)
    elif isinstance(event, Failed):
        outcome.failed[event.run_id] = event.error
