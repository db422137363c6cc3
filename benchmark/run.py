"""One run, from its configuration to its record: dense phase, cuts, training, summary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.cost import cost
from benchmark.data import check_finished
from benchmark.locks import held
from benchmark.models import default_plan
from benchmark.options import Options
from benchmark.provenance import environment
from benchmark.record import DIVERGED, FINISHED, NET_KEYS, Record
from benchmark.schedule import schedule
from benchmark.tracking.tracker import Tracker, replay, require_key, tracked
from benchmark.training import state as states
from benchmark.training.cut import CutError, make_cut
from benchmark.training.dense import dense_state, start
from benchmark.training.epoch import Problem, advance, make_problem
from benchmark.training.state import State


@dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it, after each epoch."""

    run_id: str
    row: dict
    total: int
    seconds: float
    """Time that the epoch took: a cut before it, training, tests."""


Watch = Callable[[Progress], None]


def run(
    config: RunConfig, options: Options, watch: Watch = lambda progress: None, *, wait: bool = True
) -> dict:
    """Bring a run to its end, from wherever it is, and return its summary. A finished run is left
    as it is.

    While another process executes it, or trains the dense phase that it starts from: wait, or raise
    `BusyError`.
    """
    config.check_components()
    with options.own_threads():
        return _brought_to_its_end(config.canonical(), options, watch, wait)


def _brought_to_its_end(config: RunConfig, options: Options, watch: Watch, wait: bool) -> dict:
    record = Record(options.runs / config.run_id)
    if record.config_file.exists():
        record.checked_config()
    if record.finished:
        record.tidy()
        check_finished([record], options.data)
        return _reported(config, record, options)
    if options.wandb == "online":
        require_key()
    problem = make_problem(config, options.data, options.torch_device())
    record.folder.mkdir(parents=True, exist_ok=True)
    with held(record.lock_file, wait=wait):
        if record.finished:
            return _reported(config, record, options)
        record.start(config)
        report, resume = _reporter(config, watch), bool(_checkpoints(record))
        begin = partial(_begin, config, problem, record, options, report, wait)
        state = (
            None if wait else begin()
        )  # W&B need not hear of a look at a dense phase that is busy
        with tracked(config, options.runs, options.wandb, resume, options.wandb_full) as tracker:
            summary = _run(state or begin(), config, problem, record, options, tracker, report)
            tracker.finish(summary)
        return summary


def _reported(config: RunConfig, record: Record, options: Options) -> dict:
    """The summary of a finished run; a server that follows runs gets what it does not have of
    it."""
    summary = record.summary()
    if options.wandb == "online":
        with tracked(config, options.runs, options.wandb, True, options.wandb_full) as tracker:
            replay(record.history(), record.cuts(), summary, tracker)
    return summary


def _reporter(config: RunConfig, watch: Watch) -> Callable[[State], None]:
    """What tells `watch` of the last epoch of a state."""
    total = schedule(config).total

    def report(state: State) -> None:
        seconds = [row["time/seconds"] for row in state.history[-2:]]
        spent = seconds[-1] - (seconds[0] if state.epoch > 1 else 0)
        watch(Progress(config.run_id, state.history[-1], total, spent))

    return report


def _begin(
    config: RunConfig,
    problem: Problem,
    record: Record,
    options: Options,
    report: Callable[[State], None],
    wait: bool,
) -> State:
    """Where the run goes on from: its checkpoint, or the dense phase that it shares, or an
    untrained net."""
    if state := _resumed(record, config, problem):
        return state
    if dense := schedule(config).dense:
        return dense_state(
            config,
            problem,
            options.runs,
            dense,
            flow_every=options.flow_every,
            report=report,
            wait=wait,
        )
    return start(config, problem)


def _run(
    state: State,
    config: RunConfig,
    problem: Problem,
    record: Record,
    options: Options,
    tracker: Tracker,
    report: Callable[[State], None],
) -> dict:
    timetable = schedule(config)
    record.restore(state.history, state.cuts)
    for row in state.history[:-1]:
        tracker.log(row, _cut_at(state, row["epoch"]))
    outcome = _outcome(state)
    while outcome == FINISHED:
        if len(state.cuts) < config.rounds and state.epoch in timetable.cuts[len(state.cuts) :]:
            try:
                record.append_cut(_cut(state, problem, config, record, options))
            except CutError as failure:
                outcome = failure.outcome
                break
        if state.epoch == timetable.total:
            break
        row = advance(
            state, problem, config, timetable.lr(state.epoch), flow_every=options.flow_every
        )
        record.append_epoch(row)
        states.save(
            record.checkpoint_file,
            state,
            config,
            problem.digest,
            previous=record.previous_checkpoint_file,
        )
        tracker.log(
            state.history[-2], _cut_at(state, state.epoch - 1)
        )  # before, a kill could undo its cut
        report(state)
        outcome = _outcome(state)
    tracker.log(state.history[-1], _cut_at(state, state.epoch))
    summary = _summary(state, problem, config, options, outcome)
    record.finish(summary)
    return summary


def _resumed(record: Record, config: RunConfig, problem: Problem) -> State | None:
    for file in _checkpoints(record):
        if state := states.load(file, config, problem.train.images.device, problem.digest):
            return state
    return None


def _checkpoints(record: Record) -> list[Path]:
    """The latest checkpoint and the one before it, as far as they are there."""
    return [
        file for file in (record.checkpoint_file, record.previous_checkpoint_file) if file.exists()
    ]


def _cut(
    state: State, problem: Problem, config: RunConfig, record: Record, options: Options
) -> dict:
    scores_file = record.scores_folder / f"cut-{len(state.cuts) + 1:02d}.npz"
    return make_cut(state, problem, config, scores_file, score_every=options.score_all)


def _outcome(state: State) -> str:
    """`diverged` once a training loss is no number any more."""
    loss = state.history[-1]["train/loss"]
    return FINISHED if loss is None or math.isfinite(loss) else DIVERGED


def _cut_at(state: State, epoch: int) -> dict | None:
    return next((cut for cut in state.cuts if cut["epoch"] == epoch), None)


def _summary(
    state: State, problem: Problem, config: RunConfig, options: Options, outcome: str
) -> dict:
    plan = default_plan(config.arch, config.width)
    after = {name: int(mask.sum()) for name, mask in state.model.masks().items()}
    return {
        "run_id": config.run_id,
        "cell": config.cell,
        "outcome": outcome,
        **state.history[-1],
        "before": {key: state.history[0][key] for key in NET_KEYS},
        "after": cost(state.model, problem.size),
        "plan": {"before": plan, "after": after},
        "samples": problem.samples,
        "data": problem.digest,
        **environment(),
        "device": options.device_name(),
        "seconds": state.seconds,
    }
