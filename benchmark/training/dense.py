"""The shared dense phase: the epochs before the first cut are trained once per (arch, data set,
optimizer, seed).

Each state contains its history. A process that needs a state marks it as wanted and waits for it;
the process that holds the lock trains. The lock of a process that died is free.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.files import remove_temporaries
from benchmark.locks import BusyError, held
from benchmark.record import DenseFolder
from benchmark.schedule import step_lr
from benchmark.training.checkpoint import Checkpoints, load
from benchmark.training.epoch import Report, advance, log_epoch
from benchmark.training.problem import Problem
from benchmark.training.state import State, fresh
from benchmark.training.steps import Steps

POLL_SECONDS = 0.5


def start(config: RunConfig, problem: Problem, *, accumulates: bool = False) -> State:
    """The state before training, with row 0; accumulates: see `fresh`."""
    device = problem.train.images.device
    state = fresh(config, problem.num_classes, device, accumulates=accumulates)
    log_epoch(state, problem, config, {"lr": config.lr}, flow=True)
    return state


def dense_steps(
    config: RunConfig,
    problem: Problem,
    runs: Path,
    until: int,
    *,
    flow_every: int,
    report: Report,
    wait: bool,
    checkpoint_seconds: float,
) -> Steps[State]:
    """The state after `until` dense epochs, from the shared folder; trained if it is not there.

    While another process trains it: wait for it, or raise `BusyError`.
    """
    dense, folder, device = config.dense(), DenseFolder(runs, config), problem.train.images.device
    folder.want(until)
    while True:
        if state := load(folder.state_file(until), dense, device, problem.digest):
            return state
        with contextlib.suppress(BusyError), held(folder.lock_file, wait=False):
            remove_temporaries(folder.folder)
            yield from _train(
                folder, dense, problem, until, flow_every, report, checkpoint_seconds,
                accumulates=config.accumulates,
            )  # fmt: skip
            continue
        if not wait:
            raise BusyError(f"the dense phase {folder.folder} is trained by another process")
        yield POLL_SECONDS


def _train(
    folder: DenseFolder,
    dense: RunConfig,
    problem: Problem,
    until: int,
    flow_every: int,
    report: Report,
    checkpoint_seconds: float,
    *,
    accumulates: bool,
) -> Steps[None]:
    state = None
    while not state and (nearest := folder.nearest(until)):
        state = load(nearest, dense, problem.train.images.device, problem.digest)
    state = state or start(dense, problem, accumulates=accumulates)
    with Checkpoints(dense, problem.digest, checkpoint_seconds) as checkpoints:
        while state.epoch < until:
            lr = step_lr(dense.lr, state.epoch, dense.epochs)
            yield from advance(state, problem, dense, lr, flow_every=flow_every, report=report)
            file, epoch = folder.state_file(state.epoch), state.epoch
            due = epoch == until or folder.wanted(epoch)
            checkpoints.keep(state, file, due=due, then=partial(folder.drop_before, epoch))
            report.epoch(state)
