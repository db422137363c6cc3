"""The Ray engine: one Ray task per run, on as many machines as a Ray cluster has.

The folder of the runs is the same path on every machine. If the machines share it, all works as on
one machine. If each has its own, a dense phase is shared on each machine, a run that moves to
another one starts again there (and ends with the same numbers), and the record of a finished run is
brought to the machine of the driver.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
)  # Ray warns that this will be its default

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark.config import RunConfig
from benchmark.errors import UserError, first_line
from benchmark.files import write_atomically
from benchmark.locks import held
from benchmark.options import Options
from benchmark.record import DenseFolder, Record
from sweeps.engines.jobs import (
    STOP_SECONDS,
    TICK_SECONDS,
    DensePhases,
    Job,
    Outcome,
    Watch,
    due,
    noted_failure,
    settled,
    tidy,
    unfinished,
)
from sweeps.engines.worker import Done, Event, Failed, Lost, attempt

CONNECT_SECONDS = 10.0
AHEAD = 1
"""Tasks beyond what the cluster has room for: a worker never waits for the driver, and an
autoscaler sees demand."""


def drive(
    configs: list[RunConfig],
    options: Options,
    workers: int,
    watch: Watch,
    *,
    per_gpu: int = 0,
    retries: int = 2,
    epoch_limit: float = 0.0,
    address: str | None = None,
) -> Outcome:
    """Run what is not finished, `workers` runs at once (0: what the cluster has room for, also when
    it grows).

    A task takes 1 / `per_gpu` of a GPU (0: all of it), or `options.threads` cores where no machine
    has a GPU. `address` is that of a cluster (None: RAY_ADDRESS, else the one that runs on this
    machine, else this machine alone). A run goes on elsewhere when its machine dies; retries,
    limits, interruptions and errors are as in the local engine.
    """
    outcome = Outcome()
    queue = unfinished(configs, options, outcome)
    if queue:
        with _cluster(address) as raise_signals:
            tasks = _Tasks(options, queue, per_gpu or 1)
            try:
                while queue or tasks.running:
                    start, slots = time.monotonic(), workers or tasks.slots()
                    while len(tasks.running) < (workers or slots + AHEAD) and (
                        job := tasks.choice(due(queue))
                    ):
                        queue.remove(job)
                        tasks.submit(job)
                    for job, event in tasks.events(epoch_limit):
                        if event := settled(event, job, queue, outcome, retries):
                            watch(event)
                    outcome.wall += (time.monotonic() - start) * min(slots, len(configs))
                    raise_signals()
            finally:
                tasks.stop()
    tidy(configs, options.runs)
    return outcome


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Callable[[], None]]:
    """A connection to the cluster, and what raises the signals that came meanwhile.

    A handler that raises inside of Ray loses its exit status. Raises `UserError` if there is no
    cluster at this address, or it cannot work with us.
    """
    _require_listener(address or os.environ.get("RAY_ADDRESS", ""))
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[int] = []

    def raise_signals() -> None:
        while came:
            signal.signal(came[-1], ours[came[-1]])
            signal.raise_signal(came.pop())

    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises that, too, when a machine is slow
        raise UserError(
            f"Ray at address {address!r} cannot be reached or started ({first_line(error)})"
        ) from None
    for number in ours:  # Ray has put in its own
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield raise_signals
    finally:
        ray.shutdown()
        for number, handler in ours.items():
            signal.signal(number, handler)


def _require_listener(address: str) -> None:
    """Raise `UserError` unless something listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address in ("", "auto", "local") or "://" in address:
        return
    if not host or not port.isdecimal():
        raise UserError(f"address must be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"there is no Ray cluster at address {address!r} ({error})") from None


@dataclass
class _Task:
    job: Job
    files: ray.ObjectRef
    """What the record holds, for a driver that does not see it."""
    heard: float | None = None
    """When it last told of itself; None before it runs."""


class _Tasks:
    """The tasks that were submitted and have not ended."""

    def __init__(self, options: Options, queue: list[Job], per_gpu: int) -> None:
        resources = ray.cluster_resources()
        if options.device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"device must be auto, cpu or cuda: Ray chooses the GPU, got {options.device!r}"
            )
        gpu = options.device == "cuda" or (options.device == "auto" and "GPU" in resources)
        self.options = replace(
            options,
            runs=options.runs.absolute(),
            data=options.data.absolute(),
            device="cuda" if gpu else "cpu",
        )
        self.unit, self.amount = ("GPU", 1 / per_gpu) if gpu else ("CPU", self.options.threads)
        need = {"num_gpus": self.amount, "num_cpus": 0} if gpu else {"num_cpus": self.amount}
        self.remote = ray.remote(num_returns=2, max_retries=0, **need)(_execute)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.running: dict[ray.ObjectRef, _Task] = {}
        self.dense = DensePhases(queue)

    def slots(self) -> int:
        """Runs that the cluster has room for at once."""
        return int(ray.cluster_resources().get(self.unit, 0) / self.amount)

    def choice(self, jobs: list[Job]) -> Job | None:
        """The job to submit next."""
        return self.dense.first(jobs, [task.job.config for task in self.running.values()])

    def submit(self, job: Job) -> None:
        """Hand a job to Ray."""
        tracking = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        event, files = self.remote.remote(
            job.config, self.options, self.dense.wanted(job.config), tracking, self.told
        )
        self.running[event] = _Task(job, files)

    def events(self, limit: float) -> list[tuple[Job, Event]]:
        """What tasks have to say within a tick, and that some have been silent for too long."""
        if not self.running:
            time.sleep(TICK_SECONDS)
            return []
        ended, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=TICK_SECONDS)
        events = self._epochs()  # after the waiting: an ended task has told of all its epochs
        for ref in ended:
            task = self.running.pop(ref)
            events.append((task.job, self._end(ref, task)))
        now = time.monotonic()
        for ref, task in list(self.running.items()):
            if limit and task.heard and now - task.heard > limit:
                ray.cancel(ref, force=True)
                del self.running[ref]
                events.append(
                    (task.job, self._failed(task, f"no epoch came to its end within {limit:g} s"))
                )
        return events

    def stop(self) -> None:
        """Interrupt what runs; finished epochs are kept. Who does not stop in time is killed."""
        for force in (False, True):
            for ref in self.running:
                ray.cancel(ref, force=force)
            if self.running:
                _, left = ray.wait(
                    list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS
                )
                self.running = {ref: self.running[ref] for ref in left}

    def _epochs(self) -> list[tuple[Job, Event]]:
        events, tasks = [], {task.job.config.run_id: task for task in self.running.values()}
        for run_id, epoch in self.told.get_nowait_batch(self.told.qsize()):
            if task := tasks.get(run_id):
                task.heard = time.monotonic()
                if epoch:
                    self.dense.note(task.job.config, epoch.row["epoch"])
                    events.append((task.job, epoch))
        return events

    def _end(self, ref: ray.ObjectRef, task: _Task) -> Event:
        try:
            event = ray.get(ref)
            record = Record(self.options.runs / task.job.config.run_id)
            if isinstance(event, Done) and not record.finished:
                unpack(record, ray.get(task.files))
            if isinstance(event, Failed) and not record.failure():
                noted_failure(self.options.runs, task.job.config, event.error)
        except (NodeDiedError, ObjectLostError):
            return Lost(task.job.config.run_id)
        except OutOfMemoryError:
            return self._failed(task, "the worker died (out of memory)")
        except RayError as error:
            return self._failed(
                task, f"the worker died ({first_line(getattr(error, 'cause', None) or error)})"
            )
        return event

    def _failed(self, task: _Task, error: str) -> Failed:
        return noted_failure(self.options.runs, task.job.config, error)


def _execute(
    config: RunConfig, options: Options, wanted: set[int], tracking: dict[str, str], told: Queue
) -> tuple[Event, dict[str, bytes]]:
    """The task, in a process of Ray's on whatever machine: how the run went, and the files of a
    finished record."""
    told.put_nowait((config.run_id, None))
    os.environ.update(tracking)
    options.prepare()
    for epoch in wanted:
        DenseFolder(options.runs, config).want(epoch)
    event = attempt(config, options, lambda epoch: told.put_nowait((config.run_id, epoch)))
    return event, pack(Record(options.runs / config.run_id)) if isinstance(event, Done) else {}


def pack(record: Record) -> dict[str, bytes]:
    """{path below the record's folder: content} of a finished run, the summary last."""
    files = [
        path
        for path in record.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    files.sort(key=lambda path: path == record.summary_file)
    return {path.relative_to(record.folder).as_posix(): path.read_bytes() for path in files}


def unpack(record: Record, files: dict[str, bytes]) -> None:
    """Write the files of a record that lies on another machine; the run is finished when its
    summary is there."""
    record.folder.mkdir(parents=True, exist_ok=True)
    with held(record.lock_file, wait=True):
        for name, content in files.items():
            path = record.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        record.failure_file.unlink(missing_ok=True)
