"""One run, from its configuration to its record: dense phase, cuts, training, summary."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmark import state as states
from benchmark.config import RunConfig
from benchmark.cost import cost
from benchmark.cut import make_cut
from benchmark.dense import dense_state, start
from benchmark.models import default_plan
from benchmark.options import Options
from benchmark.record import NET_KEYS, Record
from benchmark.schedule import Schedule, schedule
from benchmark.state import State
from benchmark.track import Tracker, open_tracker
from benchmark.train import Problem, advance, make_problem


@dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it, after each epoch."""

    run_id: str
    row: dict
    total: int
    images: int


Watch = Callable[[Progress], None]


def run(config: RunConfig, options: Options, watch: Watch = lambda progress: None) -> dict:
    """Bring a run to its end, from wherever it is, and return its summary. A finished run is left as it is."""
    config = config.canonical()
    record = Record(options.runs / config.run_id)
    if record.finished:
        return record.summary()
    problem = make_problem(config, options.data, options.torch_device())
    record.start(config)
    tracker = open_tracker(config, options.runs, options.wandb)
    try:
        summary = _run(config, problem, record, options, tracker, watch)
    except BaseException:
        tracker.abandon()
        raise
    tracker.finish(summary)
    return summary


def _run(config: RunConfig, problem: Problem, record: Record, options: Options, tracker: Tracker, watch: Watch) -> dict:
    timetable = schedule(config)

    def report(row: dict) -> None:
        watch(Progress(config.run_id, row, timetable.total, len(problem.train.labels)))

    state = _begin(config, problem, record, options, timetable, report)
    for row in state.history[:-1]:
        tracker.log(row, _cut_at(state, row["epoch"]))
    outcome = "finished"
    while outcome == "finished":
        if len(state.cuts) < config.rounds and state.epoch in timetable.cuts[len(state.cuts) :]:
            scores_file = record.scores_folder / f"cut-{len(state.cuts) + 1:02d}.npz"
            record.append_cut(make_cut(state, problem, config, scores_file, score_every=options.score_all))
        tracker.log(state.history[-1], _cut_at(state, state.epoch))
        if state.epoch == timetable.total:
            break
        row = advance(state, problem, config, timetable.lr(state.epoch), flow_every=options.flow_every)
        record.append_epoch(row)
        states.save(record.checkpoint_file, state, config)
        report(row)
        if not math.isfinite(row["train/loss"]):
            outcome = "diverged"
    summary = _summary(state, problem, config, options, outcome)
    record.finish(summary)
    return summary


def _begin(
    config: RunConfig, problem: Problem, record: Record, options: Options, timetable: Schedule, report: Callable
) -> State:
    """The state to go on from: the checkpoint, or the end of the dense phase."""
    device = problem.train.images.device
    if record.checkpoint_file.exists():
        state = states.load(record.checkpoint_file, config, device)
    elif timetable.dense:
        state = dense_state(
            config, problem, options.runs, timetable.dense, flow_every=options.flow_every, report=report
        )
    else:
        state = start(config, problem)
    record.restore(state.history, state.cuts)
    return state


def _cut_at(state: State, epoch: int) -> dict | None:
    return next((cut for cut in state.cuts if cut["epoch"] == epoch), None)


def _summary(state: State, problem: Problem, config: RunConfig, options: Options, outcome: str) -> dict:
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
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": options.device_name(),
        "seconds": state.seconds,
    }
