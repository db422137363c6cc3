"""Slots: several runs that take turns in one thread of a process.

On a GPU each has a stream of its own. While the replays of some are queued there, another one is
cut, tested or saved; none waits for the GPU itself.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmark.cli import UNWRITABLE
from benchmark.config import RunConfig
from benchmark.errors import ShortageError, UserError, is_out_of_memory, one_line
from benchmark.locks import BusyError
from benchmark.options import Options
from benchmark.record import Record
from benchmark.run import Progress, run_steps
from benchmark.training.steps import Steps
from sweeps.engines.events import GONE, Done, Epoch, Event, Failed, Unwritable, Waits

Place = Callable[[], AbstractContextManager]
"""What makes the context in which a run has its turns: a stream of its own, on a GPU."""


@dataclass
class Slot:
    """A run at work."""

    config: RunConfig
    steps: Steps[dict]
    place: Place
    due: float = field(default_factory=time.monotonic)
    """When it has something to do again."""


class Slots:
    """The runs of one process. `options.applied()` has to hold while they have their turns."""

    def __init__(self, options: Options, tell: Callable[[Epoch], None]) -> None:
        self.options, self.tell = options, tell
        self.slots: list[Slot] = []

    def begin(self, config: RunConfig) -> None:
        """Give a run a slot."""

        def watch(progress: Progress) -> None:
            self.tell(Epoch(progress.run_id, progress.row, progress.seconds))

        steps = run_steps(config, self.options, watch, wait=False)
        self.slots.append(Slot(config, steps, own_place(self.options)))

    def turn(self) -> list[Event]:
        """Give each run that has something to do a turn, or wait until one has; returns how runs
        ended."""
        if self.slots:
            time.sleep(max(0.0, min(slot.due for slot in self.slots) - time.monotonic()))
        events, now = [], time.monotonic()
        for slot in [slot for slot in self.slots if slot.due <= now]:
            if event := self._turn(slot):
                self.slots.remove(slot)
                events.append(event)
        return events

    def _turn(self, slot: Slot) -> Event | None:
        try:
            with slot.place():
                slot.due = time.monotonic() + next(slot.steps)
        except StopIteration as end:
            return Done(slot.config.run_id, end.value)
        except GONE:
            raise
        except BusyError:
            return Waits(slot.config.run_id)
        except Exception as error:
            return failed(slot.config, self.options, error)
        return None

    def stop(self, end: BaseException) -> None:
        """End all runs as if `end` was raised in them: they save what they have. Raises the first
        other error that one raises then, after all have ended."""
        errors = []
        while self.slots:
            slot = self.slots.pop()
            try:
                with slot.place():
                    slot.steps.throw(end)
            except (type(end), StopIteration):
                continue
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def failed(config: RunConfig, options: Options, error: Exception) -> Event:
    """What an error in a run means; notes it in its record."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return Unwritable(config.run_id, str(error))
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    message = one_line(f"{kind}{error}")
    record = Record(options.runs / config.run_id)
    if not record.config_file.exists():
        record.start(config)
    record.fail(message, "".join(traceback.format_exception(error)))
    again = isinstance(error, ShortageError) or not isinstance(error, UserError)
    return Failed(config.run_id, message, again, is_out_of_memory(error))


def own_place(options: Options) -> Place:
    """A stream of a run's own on a GPU; anywhere else nothing."""
    device = options.torch_device()
    if device.type != "cuda":
        return nullcontext
    import torch

    stream = torch.cuda.Stream(device)
    return lambda: torch.cuda.stream(stream)
