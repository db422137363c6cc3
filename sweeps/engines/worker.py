"""A worker process, which loads torch once and then executes runs: one after another, or several
that take turns."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmark import initial
from benchmark.cli import plain_warnings, terminate
from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.outside import Component, adopt
from sweeps.engines.events import GONE, Epoch, Event, Failed, Leaving, Ready

if TYPE_CHECKING:
    from sweeps.engines.slots import Slots


def work(
    pipe: Connection,
    options: Options,
    components: Sequence[Component] = (),
    weights: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Receive configurations, run them, send events; a closed pipe ends the worker. Runs that come
    before others have ended take turns with them.

    components: those from outside that the runs may name. weights: files of initial weights, by
    digest.
    """
    plain_warnings()
    adopt(components)
    initial.adopt(weights)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver too, which decides
    signal.signal(signal.SIGTERM, terminate)
    options.prepare()
    from sweeps.engines.slots import Slots  # here, so that the driver needs no torch

    slots = Slots(options, pipe.send)
    try:
        with options.applied():
            pipe.send(Ready())
            while True:
                _turns(pipe, slots)
    except (EOFError, *GONE):  # the driver has died, or is about to send SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        slots.stop(SystemExit(128 + signal.SIGTERM))
    except SystemExit as end:
        slots.stop(end)
        raise


def _turns(pipe: Connection, slots: Slots) -> None:
    """Begin the runs that have come, give each a turn, and report those that ended."""
    while not slots.slots or pipe.poll():
        slots.begin(pipe.recv())
    events = slots.turn()
    failed = any(isinstance(event, Failed) for event in events)
    usable = gpu_works() if failed or (events and not slots.slots) else True
    if not usable:
        pipe.send(Leaving())
    for event in events:
        pipe.send(event)
    if not usable:
        os._exit(1)  # CUDA's own clean-up would fail


def gpu_works() -> bool:
    """Give back the memory that a run took on the GPU; whether the process can still use it.

    After some errors (an illegal memory access, say) all later calls of CUDA in a process fail.
    """
    import torch

    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def attempt(config: RunConfig, options: Options, tell: Callable[[Epoch], None]) -> Event:
    """Execute a run as far as it gets; returns how it ended. `tell` gets each epoch."""
    from sweeps.engines.slots import Slots  # here, so that the driver needs no torch

    slots = Slots(options, tell)
    with options.applied():
        slots.begin(config)
        try:
            while True:
                for event in slots.turn():
                    return event
        except BaseException as end:
            slots.stop(end)
            raise
