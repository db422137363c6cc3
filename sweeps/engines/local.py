"""The local engine: long-lived worker processes on this machine."""

from __future__ import annotations

import contextlib
import time
from multiprocessing.connection import wait

from benchmark import initial, outside
from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.processes import spawning
from sweeps.engines.jobs import STOP_SECONDS, TICK_SECONDS, Job, noted_failure
from sweeps.engines.worker import Epoch, Event, Failed, Leaving, Ready, work
from sweeps.placement import placement

START_SECONDS = 120.0
"""Time that a worker gets until it is ready, if epochs have a limit."""


class LocalEngine:
    """`workers` processes (0: `per_gpu` on each GPU, or one per core if there is none).

    `per_gpu` 0 means as many as fit. A worker that dies, or finishes no epoch within `epoch_limit`
    seconds (0: no limit), is replaced. A worker that runs out of memory is not, while another one
    is left on its device.
    """

    ahead = 0

    def __init__(
        self,
        options: Options,
        configs: list[RunConfig],
        *,
        workers: int = 0,
        per_gpu: int = 0,
        epoch_limit: float = 0.0,
    ) -> None:
        places = placement(options, workers, per_gpu, configs)
        self.pool = [Worker(place) for place in places[: len(configs)]]
        self.epoch_limit = epoch_limit

    def slots(self) -> int:
        """The number of workers."""
        return len(self.pool)

    def start(self, job: Job) -> None:
        """Give a run to a free worker."""
        place = next(i for i, worker in enumerate(self.pool) if not worker.job)
        if not self.pool[place].process.is_alive():
            self.pool[place] = Worker(self.pool[place].options)
        self.pool[place].give(job)

    def events(self) -> list[Event]:
        """What busy workers report within a tick."""
        busy = {worker.pipe: worker for worker in self.pool if worker.job}
        ready = [busy[pipe] for pipe in wait(list(busy), timeout=TICK_SECONDS)]
        events = [worker.receive() for worker in ready]
        for worker, event in zip(ready, events, strict=True):
            if isinstance(event, Failed) and event.memory:
                self._retire(worker)
        if self.epoch_limit:
            quiet = [worker for worker in busy.values() if worker not in ready]
            events += [w.give_up(self.epoch_limit) for w in quiet if w.silent(self.epoch_limit)]
        return [event for event in events if not isinstance(event, Ready)]

    def _retire(self, worker: Worker) -> None:
        """End a worker whose device is too small for all of them."""
        device = worker.options.device
        if sum(other.options.device == device for other in self.pool) > 1:
            self.pool.remove(worker)
            worker.kill()

    def stop(self) -> None:
        """Stop the workers; those that do not stop in time are killed."""
        for worker in self.pool:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self.pool:
            worker.process.join(STOP_SECONDS)
            worker.kill()


class Worker:
    """A process that executes one run after another."""

    def __init__(self, options: Options) -> None:
        context = spawning()
        self.options = options
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, options, outside.given(), initial.given())
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.ready = self.leaving = False
        self.heard = time.monotonic()

    def give(self, job: Job) -> None:
        """Hand it a run."""
        self.job, self.heard = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has died: `receive` will report it
            self.pipe.send(job.config)

    def receive(self) -> Event | Ready:
        """Its next event; waits for it."""
        self.heard, self.ready = time.monotonic(), True
        try:
            event = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            memory = ", probably out of memory" if status == -9 else ""
            return self._failed(f"the worker died ({how}{memory})")
        if isinstance(event, Leaving):
            self.leaving = True
            return Ready()
        if not isinstance(event, (Epoch, Ready)):
            self.job = None
            if self.leaving:
                self.process.join()
        return event

    def silent(self, limit: float) -> bool:
        """Whether it has reported nothing for `limit` seconds (or for a start, on a busy
        machine)."""
        return time.monotonic() - self.heard > (limit if self.ready else max(limit, START_SECONDS))

    def give_up(self, limit: float) -> Event:
        """Kill it, because no epoch came to its end in time."""
        self.kill()
        return self._failed(f"no epoch was finished within {limit:g} s")

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()

    def _failed(self, error: str) -> Event:
        job, self.job = self.job, None
        return noted_failure(self.options.runs, job.config, error)
