"""One epoch of training, and the row that is logged after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.cost import cost
from benchmark.data._batches import epoch_batches
from benchmark.flow import evaluate, measure_flow, tf32, with_statistics_of
from benchmark.record import FLOW_KEYS, HISTORY_KEYS
from benchmark.schedule import schedule
from benchmark.training.problem import Problem
from benchmark.training.state import State
from benchmark.training.step import step_kind


class Report(Protocol):
    """What is told how far training is."""

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
) -> dict:
    """Train one epoch in place; returns the row that it added to the history."""
    row = train_epoch(state, problem, config, lr, report)
    return log_epoch(state, problem, config, row, flow=(state.epoch + 1) % flow_every == 0)


def train_epoch(
    state: State, problem: Problem, config: RunConfig, lr: float, report: Report | None = None
) -> dict[str, float]:
    """Train one epoch in place; returns the `train/*`, `lr` and `time/images_per_second` part of
    its row."""
    images, labels = problem.train.images, problem.train.labels
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    augment_seed = stream_seed("augment", config, "dataset", epoch=state.epoch)
    batches = epoch_batches(
        images,
        labels,
        batch_size=config.batch_size,
        order_seed=stream_seed("order", config, "dataset", epoch=state.epoch),
        augment_seed=augment_seed if problem.augment else None,
    )
    step = state.step or step_kind(images.device)(
        state.model, state.optimizer, config, state.accumulated
    )
    state.step = step
    step.sums.zero_()
    start = time.perf_counter()
    state.model.train()
    dropout = seeded(stream_seed("dropout", config, "dataset", epoch=state.epoch), images.device)
    with dropout, tf32(config.precision == "tf32"):
        seen = 0
        for x, y in batches:
            if report:
                report.images(state, seen, len(labels))
            step(x, y)
            seen += len(y)
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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's global random state, of which dropout draws, from a seed for a block."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _cost(state: State, problem: Problem) -> dict[str, int]:
    """The cost of the net, computed once until the next cut."""
    if state.cost is None:
        state.cost = cost(state.model, problem.size)
    return state.cost


def log_epoch(
    state: State, problem: Problem, config: RunConfig, trained: dict, *, flow: bool
) -> dict:
    """Complete the row of an epoch and add it to the history: test, cost, and (if `flow`) the
    gradient flow on the probe set, with batch-norm statistics of the probe set itself."""
    start, epoch = time.perf_counter(), len(state.history)
    test = problem.test if epoch == schedule(config).total else problem.quick_test or problem.test
    loss, accuracy = evaluate(state.model, test.images, test.labels, config.temperature)
    row = dict.fromkeys(HISTORY_KEYS) | {"epoch": epoch, **trained}
    row |= {"test/loss": loss, "test/accuracy": accuracy, **_cost(state, problem)}
    if flow:
        probe = problem.probe
        model = with_statistics_of(state.model, probe.images)
        numbers = measure_flow(model, probe.images, probe.labels, config.temperature).numbers
        row |= {f"flow/{key}": numbers[key] for key in FLOW_KEYS}
    state.seconds += time.perf_counter() - start
    row["time/seconds"] = state.seconds
    state.history.append(row)
    return row
