"""The local engine: long-lived worker processes on this machine."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import wait

from benchmark import initial, outside
from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.processes import spawning
from sweeps.engines.events import Epoch, Event, Failed, Leaving, Ready, Waits
from sweeps.engines.jobs import STOP_SECONDS, TICK_SECONDS, Job, noted_failure
from sweeps.engines.worker import work
from sweeps.placement import fitting, placement

MOST_PACKED = 16
"""Runs that one process takes on a GPU."""
START_SECONDS = 120.0
"""Time that a worker gets until it is ready, if epochs have a limit."""


class LocalEngine:
    """`workers` processes (0: `per_gpu` on each GPU, or one per core if there is none).

    `per_gpu` 0 means as many as fit. `packed`: each process executes so many runs, which take turns
    (0: one), or fewer if memory holds no more; there is then one process on each GPU, unless
    `workers` says more. A worker that dies, or in which a run finishes no epoch within
    `epoch_limit` seconds (0: no limit), is replaced. One that runs out of memory takes one run
    fewer at once. If it took only one, it is removed, unless it is the last on its device.
    """

    ahead = 0

    def __init__(
        self,
        options: Options,
        configs: list[RunConfig],
        *,
        workers: int = 0,
        per_gpu: int = 0,
        packed: int = 0,
        epoch_limit: float = 0.0,
    ) -> None:
        runs = packed or 1
        places = placement(options, workers, 1 if packed else per_gpu, configs)
        if packed and places[0].device.startswith("cuda"):
            sharing = max(Counter(place.device for place in places).values())
            runs = max(1, min(packed, MOST_PACKED, fitting(configs, places[0]) // sharing))
        self.pool = [Worker(place, runs) for place in places[: len(configs)]]
        self.epoch_limit = epoch_limit

    def slots(self) -> int:
        """How many runs the workers take at once."""
        return sum(worker.runs for worker in self.pool)

    def start(self, job: Job) -> None:
        """Give a run to the worker that has most room."""
        place = max(range(len(self.pool)), key=lambda place: self.pool[place].room)
        worker = self.pool[place]
        if not worker.process.is_alive() and not worker.jobs:
            worker = self.pool[place] = Worker(worker.options, worker.runs)
        worker.give(job)

    def events(self) -> list[Event]:
        """What busy workers report within a tick."""
        busy = {worker.pipe: worker for worker in self.pool if worker.jobs}
        ready = [busy[pipe] for pipe in wait(list(busy), timeout=TICK_SECONDS)]
        events: list[Event] = []
        for worker in ready:
            found = worker.receive()
            if any(isinstance(event, Failed) and event.memory for event in found):
                self._retire(worker)
            events += found
        if self.epoch_limit:
            for worker in busy.values():
                if not worker.pipe.poll() and (silent := worker.silent(self.epoch_limit)):
                    events += worker.give_up(silent, self.epoch_limit)
        return events

    def _retire(self, worker: Worker) -> None:
        """Give less to a worker whose device is too small for all runs."""
        if worker.runs > 1:
            worker.runs -= 1
            return
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
            worker.process.join(STOP_SECONDS * worker.runs)
            worker.kill()


class Worker:
    """A process that executes one run after another, or several that take turns."""

    def __init__(self, options: Options, runs: int = 1) -> None:
        context = spawning()
        self.options, self.runs = options, runs
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, options, outside.given(), initial.given())
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.jobs: dict[str, Job] = {}
        """{run id: what it executes}"""
        self.heard: dict[str, float] = {}
        """{run id: when it last reported}"""
        self.ready = self.leaving = False

    @property
    def room(self) -> int:
        """How many more runs it takes; below 0 after it ran out of memory."""
        return self.runs - len(self.jobs)

    def give(self, job: Job) -> None:
        """Hand it a run."""
        run_id = job.config.run_id
        self.jobs[run_id], self.heard[run_id] = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has died: `receive` will report it
            self.pipe.send(job.config)

    def receive(self) -> list[Event]:
        """Its next event; waits for it. If it has died, all its runs have failed."""
        try:
            event = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            memory = ", probably out of memory" if status == -9 else ""
            return [
                self._failed(run_id, f"the worker died ({how}{memory})") for run_id in [*self.jobs]
            ]
        if isinstance(event, Leaving):
            self.leaving = True
        if isinstance(event, Ready):
            self.ready, self.heard = True, dict.fromkeys(self.jobs, time.monotonic())
        if isinstance(event, (Leaving, Ready)):
            return []
        if isinstance(event, Epoch):
            self.heard[event.run_id] = time.monotonic()
            return [event]
        del self.jobs[event.run_id]
        if not self.leaving:
            return [event]
        events = [event]
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:  # others that ended in the same turn
                events.append(self.pipe.recv())
                self.jobs.pop(events[-1].run_id, None)
        self.process.join()
        others = [Waits(run_id) for run_id in self.jobs]
        self.jobs.clear()
        return [*events, *others]

    def silent(self, limit: float) -> list[str]:
        """The runs that have reported nothing for `limit` seconds (or for a start, on a busy
        machine)."""
        now, allowed = time.monotonic(), limit if self.ready else max(limit, START_SECONDS)
        return [run_id for run_id in self.jobs if now - self.heard[run_id] > allowed]

    def give_up(self, silent: Sequence[str], limit: float) -> list[Event]:
        """Kill it, because these runs did not come to the end of an epoch in time. The one that is
        silent the longest has failed; all others are to be started again."""
        self.kill()
        longest = min(silent, key=self.heard.__getitem__)
        failed = self._failed(longest, f"no epoch was finished within {limit:g} s")
        others = [Waits(run_id) for run_id in self.jobs]
        self.jobs.clear()
        return [failed, *others]

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()

    def _failed(self, run_id: str, error: str) -> Event:
        job = self.jobs.pop(run_id)
        return noted_failure(self.options.runs, job.config, error)
