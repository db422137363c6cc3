"""The shared dense phase: what precedes the first cut is trained once per (arch, data set, optimizer, seed).

Each state is complete with its history. Who needs one marks it as wanted and waits for it; whoever holds the
lock trains, and the lock of an owner that died is free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.config import RunConfig
from benchmark.record import DenseFolder
from benchmark.schedule import step_lr
from benchmark.state import State, fresh, load, save
from benchmark.train import Problem, advance, log_epoch

Report = Callable[[dict], None]
"""Called with each row that is added to a history."""

POLL_SECONDS = 0.5


def start(config: RunConfig, problem: Problem) -> State:
    """The state before training, with row 0."""
    state = fresh(config, problem.num_classes, problem.train.images.device)
    log_epoch(state, problem, config, {"lr": config.lr}, flow=True)
    return state


def dense_state(
    config: RunConfig, problem: Problem, runs: Path, until: int, *, flow_every: int, report: Report
) -> State:
    """The state after `until` dense epochs: from the shared folder, trained there if need be."""
    dense, folder = config.dense(), DenseFolder(runs, config)
    folder.want(until)
    while not folder.state_file(until).exists():
        try:
            with FileLock(folder.lock_file).acquire(timeout=POLL_SECONDS):
                _train(folder, dense, problem, until, flow_every, report)
        except Timeout:
            continue
    return load(folder.state_file(until), dense, problem.train.images.device)


def _train(
    folder: DenseFolder, dense: RunConfig, problem: Problem, until: int, flow_every: int, report: Report
) -> None:
    nearest = folder.nearest(until)
    state = load(nearest, dense, problem.train.images.device) if nearest else start(dense, problem)
    passing = None  # the last state that this process wrote and nobody wants
    while state.epoch < until:
        lr = step_lr(dense.lr, state.epoch, dense.epochs)
        report(advance(state, problem, dense, lr, flow_every=flow_every))
        file = folder.state_file(state.epoch)
        save(file, state, dense)
        if passing:
            passing.unlink()
        passing = None if folder.granted(state.epoch) else file
