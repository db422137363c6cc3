"""One epoch of training, and the row that is logged after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.cost import cost
from benchmark.data._batches import drawn_epoch
from benchmark.flow import evaluate, measure_flow, tf32, with_statistics_of
from benchmark.record import FLOW_KEYS, HISTORY_KEYS
from benchmark.schedule import schedule
from benchmark.training.problem import Problem
from benchmark.training.state import State
from benchmark.training.step import step_kind
from benchmark.training.steps import Steps

MOST_STEPS, MOMENT_SECONDS = 16, 0.05
"""Steps, or time, after which other runs have their turn. A GPU has at most three turns of a run
before it, so that none fills its queue."""
WAIT_SECONDS = 0.0002
"""Time between two looks at whether a GPU has done a turn."""


class Report(Protocol):
    """Receives the progress of training."""

    def epoch(self, state: State) -> None:
        """Get the state after an epoch."""

    def images(self, state: State, seen: int, of: int) -> None:
        """Get the number of images that were trained on in this epoch, and of all its images."""


def advance(
    state: State,
    problem: Problem,
    config: RunConfig,
    lr: float,
    *,
    flow_every: int,
    report: Report | None = None,
) -> Steps[dict]:
    """Train one epoch in place, in steps; returns the row that it added to the history."""
    row = yield from train_epoch(state, problem, config, lr, report)
    return log_epoch(state, problem, config, row, flow=(state.epoch + 1) % flow_every == 0)


def train_epoch(
    state: State, problem: Problem, config: RunConfig, lr: float, report: Report | None = None
) -> Steps[dict[str, float]]:
    """Train one epoch in place, in steps; returns the `train/*`, `lr` and `time/images_per_second`
    part of its row."""
    images, labels = problem.train.images, problem.train.labels
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    augment_seed = stream_seed("augment", config, "dataset", epoch=state.epoch)
    start = time.perf_counter()
    drawn = drawn_epoch(
        images,
        labels,
        order_seed=stream_seed("order", config, "dataset", epoch=state.epoch),
        augment_seed=augment_seed if problem.augment else None,
    )
    step = state.step or step_kind(images.device)(
        state.model, state.optimizer, config, state.accumulated
    )
    state.step = step
    step.sums.zero_()
    state.model.train()
    random = Random(stream_seed("dropout", config, "dataset", epoch=state.epoch), images.device)
    taken, seen, done, before = step.taken(drawn), 0, _done(images.device), lambda: True
    while seen < drawn.count:
        if report:
            report.images(state, seen, drawn.count)
        with random.drawn(), tf32(config.precision == "tf32"):
            seen += sum(_some(taken))
        while not before():
            yield WAIT_SECONDS
        before, done = done, _done(images.device)
        yield 0.0
    while not done():
        yield WAIT_SECONDS
    mean_loss, accuracy = (total / len(labels) for total in step.sums.tolist())
    seconds = time.perf_counter() - start
    state.seconds += seconds
    state.eager = state.eager or step.refused
    return {
        "train/loss": mean_loss,
        "train/accuracy": accuracy,
        "lr": lr,
        "time/images_per_second": len(labels) / seconds,
    }


def _some(taken: Iterator[int]) -> Iterator[int]:
    """The next steps: a few, or those of a moment."""
    until = time.perf_counter() + MOMENT_SECONDS
    for images in islice(taken, MOST_STEPS):
        yield images
        if time.perf_counter() > until:
            break


def _done(device: torch.device) -> Callable[[], bool]:
    """What says whether a GPU has done all that it was given so far."""
    if device.type != "cuda":
        return lambda: True
    return torch.cuda.current_stream(device).record_event().query


class Random:
    """Torch's global random state, of which dropout draws, as it is for one epoch of a run."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.devices = seed, [device] if device.type == "cuda" else []
        self.state: list[torch.Tensor] | None = None

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """For a block: the state that the last block left, or that of the seed."""
        with torch.random.fork_rng(devices=self.devices):
            if self.state is None:
                torch.manual_seed(self.seed)
            else:
                torch.set_rng_state(self.state[0])
                for device, state in zip(self.devices, self.state[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
            on_devices = map(torch.cuda.get_rng_state, self.devices)
            self.state = [torch.get_rng_state(), *on_devices]


def log_epoch(
    state: State, problem: Problem, config: RunConfig, trained: dict, *, flow: bool
) -> dict:
    """Complete the row of an epoch and add it to the history: test, cost, and (if `flow`) the
    gradient flow on the probe set, with batch-norm statistics of the probe set itself."""
    start, epoch = time.perf_counter(), len(state.history)
    test = problem.test if epoch == schedule(config).total else problem.quick_test or problem.test
    loss, accuracy = evaluate(state.model, test.images, test.labels, config.temperature)
    row = dict.fromkeys(HISTORY_KEYS) | {"epoch": epoch, **trained}
    state.cost = state.cost or cost(state.model, problem.size)
    row |= {"test/loss": loss, "test/accuracy": accuracy, **state.cost}
    if flow:
        probe = problem.probe
        model = with_statistics_of(state.model, probe.images)
        numbers = measure_flow(model, probe.images, probe.labels, config.temperature).numbers
        row |= {f"flow/{key}": numbers[key] for key in FLOW_KEYS}
    state.seconds += time.perf_counter() - start
    row["time/seconds"] = state.seconds
    state.history.append(row)
    return row
