"""The Ray engine: one Ray task per run, on all machines of a Ray cluster.

The runs folder has the same path on every machine. If the machines share it, all works as on one
machine. If each machine has its own, each trains the dense phases that its runs need, a run that
moves to another machine starts again there (and ends with the same numbers), and the record of a
finished run is copied to the machine of the driver.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# without it, Ray warns that this will be its default
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark import initial
from benchmark.config import RunConfig
from benchmark.errors import UserError, first_line, require
from benchmark.files import write_atomically
from benchmark.locks import held
from benchmark.options import Options
from benchmark.outside import Component, adopt, given
from benchmark.provenance import ROOT
from benchmark.record import DenseFolder, Record
from benchmark.registry import split
from sweeps.engines.events import Done, Event, Failed, Waits
from sweeps.engines.jobs import STOP_SECONDS, TICK_SECONDS, Job, noted_failure
from sweeps.engines.worker import attempt

CONNECT_SECONDS = 10.0
DEVICES = ("auto", "cpu", "cuda")
MEMORY = "memory"
"""A resource that Ray knows."""


@dataclass
class Task:
    """A run that was submitted to Ray."""

    job: Job
    files: ray.ObjectRef
    """The files of its record, for a driver that does not see them."""
    heard: float | None = None
    """When it last reported; None before it runs."""


@dataclass(frozen=True)
class Driver:
    """What a task needs of the process that submits it."""

    tracking: dict[str, str]
    """W&B's environment variables."""
    components: tuple[Component, ...]
    """Those from outside that runs may name."""
    weights: dict[str, Path]
    """Files of initial weights, by digest; they have the same path on every machine."""
    folder: Path
    """The working folder, to which the paths of data sets are relative."""
    mark: Path
    """A file in the driver's folder of runs: a task that sees it need not send its record."""


class RayEngine:
    """`workers` runs at once (0: as many as the cluster has room for, also when it grows).

    A run takes 1 / `per_gpu` of a GPU (0: all of it), or `options.threads` cores if no machine has
    a GPU, and `resources` besides: {name of a resource that the cluster's machines declare, or
    `memory` (bytes): amount}. `address` is that of a cluster (None: RAY_ADDRESS, else the one that
    runs on this machine, else this machine alone). A run that finishes no epoch within
    `epoch_limit` seconds (0: no limit) fails; one whose machine dies is executed elsewhere. Raises
    `UserError` if the cluster cannot be used.
    """

    def __init__(
        self,
        options: Options,
        configs: list[RunConfig],
        *,
        workers: int = 0,
        per_gpu: int = 0,
        epoch_limit: float = 0.0,
        address: str | None = None,
        resources: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        require(
            options.device in DEVICES,
            "device",
            options.device,
            f"{', '.join(DEVICES)} with Ray, which chooses the GPU",
        )
        self.connection = ExitStack()
        self.raise_signals = self.connection.enter_context(_cluster(address))
        there = ray.cluster_resources()
        gpu = options.device == "cuda" or (options.device == "auto" and "GPU" in there)
        self.options = replace(
            options,
            runs=options.runs.absolute(),
            data=options.data.absolute(),
            device="cuda" if gpu else "cpu",
        )
        self.unit, self.amount = ("GPU", 1 / (per_gpu or 1)) if gpu else ("CPU", options.threads)
        # one process per run on a GPU: CUDA may fail for good, and its memory is given back
        of_gpu = {"num_gpus": self.amount, "num_cpus": 0, "max_calls": 1}
        need = of_gpu if gpu else {"num_cpus": self.amount}
        self.more = dict(resources)
        custom = {name: amount for name, amount in resources.items() if name != MEMORY}
        need |= {"resources": custom, "memory": resources.get(MEMORY)}
        self.remote = ray.remote(num_returns=2, max_retries=0, **need)(_execute)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.mark = self.options.runs / f".driver-{uuid4().hex}"
        self.mark.touch()
        self.tasks: dict[ray.ObjectRef, Task] = {}
        self.workers, self.epoch_limit = workers, epoch_limit
        self.ahead = 0 if workers else 1  # one task in Ray's queue lets an autoscaler see demand

    def slots(self) -> int:
        """Runs that the cluster has room for at once."""
        if self.workers:
            return self.workers
        there, need = ray.cluster_resources(), {self.unit: self.amount, **self.more}
        return min(int(there.get(name, 0) / amount) for name, amount in need.items())

    def start(self, job: Job) -> None:
        """Submit a run to Ray."""
        tracking = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        here = Driver(tracking, given(), initial.given(), Path.cwd(), self.mark)
        event, files = self.remote.remote(job, self.options, here, self.told)
        self.tasks[event] = Task(job, files)

    def events(self) -> list[Event]:
        """What tasks report within a tick. Raises what a signal that came meanwhile asks for."""
        self.raise_signals()
        refs = list(self.tasks)
        ended, _ = ray.wait(refs, num_returns=len(refs), timeout=TICK_SECONDS)
        events = self._epochs()  # after `ray.wait`: an ended task has reported all its epochs
        events += [self._end(ref, self.tasks.pop(ref)) for ref in ended]
        now, limit = time.monotonic(), self.epoch_limit
        for ref, task in list(self.tasks.items()):
            if limit and task.heard and now - task.heard > limit:
                ray.cancel(ref, force=True)
                del self.tasks[ref]
                events.append(self._failed(task, f"no epoch was finished within {limit:g} s"))
        return events

    def stop(self) -> None:
        """Interrupt the tasks, kill those that do not stop in time, and leave the cluster."""
        self.mark.unlink(missing_ok=True)
        with self.connection:
            for force in (False, True):
                for ref in self.tasks:
                    ray.cancel(ref, force=force)
                if refs := list(self.tasks):
                    _, left = ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
                    self.tasks = {ref: self.tasks[ref] for ref in left}

    def _epochs(self) -> list[Event]:
        events, tasks = [], {task.job.config.run_id: task for task in self.tasks.values()}
        for run_id, epoch in self.told.get_nowait_batch(self.told.qsize()):
            if task := tasks.get(run_id):
                task.heard = time.monotonic()
                events += [epoch] if epoch else []
        return events

    def _end(self, ref: ray.ObjectRef, task: Task) -> Event:
        try:
            event = ray.get(ref)
            record = Record(self.options.runs / task.job.config.run_id)
            if isinstance(event, Done) and not record.finished:
                unpack(record, ray.get(task.files))
            if isinstance(event, Failed) and not record.failure():
                self._failed(task, event.error)
        except (NodeDiedError, ObjectLostError):
            return Waits(task.job.config.run_id, lost=True)
        except OutOfMemoryError:
            return self._failed(task, "the worker died (out of memory)")
        except RayError as error:
            reason = first_line(getattr(error, "cause", None) or error)
            return self._failed(task, f"the worker died ({reason})")
        return event

    def _failed(self, task: Task, error: str) -> Failed:
        return noted_failure(self.options.runs, task.job.config, error)


@contextmanager
def _cluster(address: str | None) -> Iterator[Callable[[], None]]:
    """A connection to the cluster; yields a function that raises the signals that came meanwhile.

    A handler that raises inside Ray loses its exit status. Raises `UserError` if there is no
    cluster at this address, or it does not accept us.
    """
    _require_listener(address or os.environ.get("RAY_ADDRESS", ""))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    pending: list[int] = []

    def raise_signals() -> None:
        while pending:
            signal.signal(pending[-1], handlers[pending[-1]])
            signal.raise_signal(pending.pop())

    try:
        with chdir(ROOT):  # tasks import from the folder that Ray is connected from
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises many kinds, also when a machine is slow
        raise UserError(
            f"Ray at address {address!r} cannot be reached or started ({first_line(error)})"
        ) from None
    for number in handlers:  # Ray has set handlers of its own
        signal.signal(number, lambda number, _: pending.append(number))
    try:
        yield raise_signals
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
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


def _execute(
    job: Job, options: Options, driver: Driver, told: Queue
) -> tuple[Event, dict[str, bytes]]:
    """The task, in a process of Ray on any machine: how the run went, and the files of a finished
    record that the driver does not see."""
    config = job.config
    told.put_nowait((config.run_id, None))
    os.environ.update(driver.tracking)
    adopt(driver.components)
    initial.adopt(driver.weights)
    if split(config.dataset)[1]:  # a path, which may be relative
        with suppress(OSError):  # another machine need not have the folder
            os.chdir(driver.folder)
    options.prepare()
    for epoch in job.wanted:
        DenseFolder(options.runs, config).want(epoch)
    event = attempt(config, options, lambda epoch: told.put_nowait((config.run_id, epoch)))
    sent = isinstance(event, Done) and not driver.mark.exists()
    return event, pack(Record(options.runs / config.run_id)) if sent else {}


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
