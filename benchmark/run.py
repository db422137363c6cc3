"""One run, from its configuration to its record: dense phase, cuts, training, summary."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmark import initial, outside
from benchmark.config import RunConfig
from benchmark.cost import cost
from benchmark.data import check_finished
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.locks import held
from benchmark.models import packed
from benchmark.options import Options
from benchmark.outside import NOUNS
from benchmark.provenance import environment
from benchmark.record import DIVERGED, FINISHED, NET_KEYS, Record
from benchmark.schedule import schedule
from benchmark.tracking.rows import sent_files, sent_rows
from benchmark.tracking.tracker import Artifacts, Tracker, replay, require_key, tracked
from benchmark.training.checkpoint import Checkpoints, load
from benchmark.training.cut import CutError, check_measure, make_cut
from benchmark.training.dense import dense_steps, start
from benchmark.training.epoch import Report, advance
from benchmark.training.latency import latencies
from benchmark.training.probes import probe
from benchmark.training.problem import Problem, make_problem
from benchmark.training.state import State, initial_net
from benchmark.training.steps import Steps, finished


@dataclass(frozen=True)
class Progress:
    """The progress of a run after an epoch."""

    run_id: str
    row: dict
    """The epoch's row of the history."""
    total: int
    """Epochs of the whole run."""
    seconds: float
    """Time that the epoch took: a cut before it, training, tests."""


@dataclass(frozen=True)
class Part:
    """The progress of a run within an epoch that takes long."""

    run_id: str
    epoch: int
    """Number of the epoch, from 1 on."""
    total: int
    """Epochs of the whole run."""
    images: int
    """Images of the epoch that were trained on."""
    of: int
    """Images of the whole epoch."""


Watch = Callable[[Progress], None]
WatchPart = Callable[[Part], None]
POLL_SECONDS = 0.005
"""Time between two looks at whether W&B knows the end of a run."""
LONG_SECONDS = 5.0
"""Time in an epoch after which parts of it are reported; then after twice that time, and so on."""


def run(
    config: RunConfig,
    options: Options,
    watch: Watch = lambda progress: None,
    watch_part: WatchPart = lambda part: None,
    *,
    wait: bool = True,
) -> dict:
    """Execute a run from where it stopped, and return its summary; a finished run is not changed.

    config: what is run; options: how. The record is the folder `options.runs / config.run_id`, and
    the summary that is returned the content of its `summary.json` (docs/records.md has the keys).
    watch: called after each epoch. watch_part: called within epochs of over five seconds. While
    another process executes the run, or trains the dense phase that it starts from: wait, or raise
    `BusyError`. Raises `UserError` for components that are not installed, and for data, initial
    weights or records that do not fit.
    """
    with options.applied():
        return finished(run_steps(config, options, watch, watch_part, wait=wait))


@dataclass(frozen=True)
class _Run:
    config: RunConfig
    options: Options
    record: Record
    problem: Problem
    report: Report


def run_steps(
    config: RunConfig,
    options: Options,
    watch: Watch = lambda progress: None,
    watch_part: WatchPart = lambda part: None,
    *,
    wait: bool = True,
) -> Steps[dict]:
    """`run`, in steps: others can be taken in between, in the same thread. `options.applied()` has
    to hold meanwhile."""
    outside.look_in(options.runs)
    config.check_components()
    config = config.canonical()
    record = Record(options.runs / config.run_id)
    if record.config_file.exists():
        record.checked_config()
    if record.finished:
        record.tidy()
        check_finished([record], options.data)
        return (yield from _finished(config, record, options))
    if options.wandb == "online":
        require_key()
    problem = make_problem(config, options.data, options.torch_device())
    check_measure(config, problem.num_classes)
    if config.init and not any(file.exists() for file in record.checkpoint_files):
        initial_net(config, problem.num_classes)  # raises before there is a record
        initial.keep(config.init, options.runs)
    record.folder.mkdir(parents=True, exist_ok=True)
    with held(record.lock_file, wait=wait):
        if record.finished:
            return (yield from _finished(config, record, options))
        record.start(config)
        run = _Run(config, options, record, problem, Reporter(config, watch, watch_part))
        resume = any(file.exists() for file in record.checkpoint_files)
        if not wait:  # a run whose dense phase is busy must not appear on W&B
            state = yield from _begin(run, wait)
        with tracked(config, options.runs, options.wandb, resume, options.wandb_full) as tracker:
            if wait:
                state = yield from _begin(run, wait)
            record.restore(state.history, state.cuts)
            outcome = yield from _train(run, state, tracker)
            summary = _summary(run, state, outcome)
            if options.keep_model:
                content = packed(state.model, problem.classes, problem.size)
                write_atomically(record.model_file, content)
            record.finish(summary)
            tracker.finish(summary, sent_files(record), _artifacts(record, options))
            yield from _told(tracker)
        return summary


def _told(tracker: Tracker) -> Steps[None]:
    """Wait until W&B knows the end of a run."""
    while not tracker.done():
        yield POLL_SECONDS


def _finished(config: RunConfig, record: Record, options: Options) -> Steps[dict]:
    """The summary of a finished run. W&B gets what it lacks, if it is online. Raises `UserError` if
    the net is to be kept, and was not."""
    if options.keep_model and not record.model_file.exists():
        raise UserError(
            f"run {record.folder} is finished without {record.model_file.name}: move the folder "
            "away, or delete it, to run it again with --keep-model"
        )
    if options.wandb == "online":
        with tracked(config, options.runs, options.wandb, True, options.wandb_full) as tracker:
            replay(record, tracker, _artifacts(record, options))
            yield from _told(tracker)
    return record.summary()


def _artifacts(record: Record, options: Options) -> Artifacts:
    """What W&B gets besides rows, summary and files."""
    scores = sorted(record.scores_folder.glob("*.npz")) if options.wandb_scores else []
    model = [record.model_file] if options.wandb_model else []
    return {kind: files for kind, files in (("model", model), ("scores", scores)) if files}


class Reporter:
    """Reports the progress of a run to the functions that watch it."""

    def __init__(self, config: RunConfig, watch: Watch, watch_part: WatchPart) -> None:
        self.run_id, self.total = config.run_id, schedule(config).total
        self.watch, self.watch_part = watch, watch_part
        self.start = self.due = 0.0

    def epoch(self, state: State) -> None:
        """Report the last epoch of a state."""
        seconds = [row["time/seconds"] for row in state.history[-2:]]
        spent = seconds[-1] - (seconds[0] if state.epoch > 1 else 0)
        self.watch(Progress(self.run_id, state.history[-1], self.total, spent))

    def images(self, state: State, seen: int, of: int) -> None:
        """Report how many images of the next epoch were trained on, if it is time; called from 0
        images on."""
        now = time.monotonic()
        if not seen:
            self.start, self.due = now, LONG_SECONDS
        elif now - self.start >= self.due and seen < of:
            self.due *= 2
            self.watch_part(Part(self.run_id, state.epoch + 1, self.total, seen, of))


def _begin(run: _Run, wait: bool) -> Steps[State]:
    """The state that the run continues from: its checkpoint, the shared dense phase, or an
    untrained net."""
    yield from _probe(run, wait)
    device = run.problem.train.images.device
    for file in run.record.checkpoint_files:
        if state := load(file, run.config, device, run.problem.digest):
            return state
    return (yield from _dense(run, schedule(run.config).dense, wait))


def _dense(run: _Run, epochs: int, wait: bool) -> Steps[State]:
    """The state after so many dense epochs."""
    if not epochs:
        return start(run.config, run.problem, accumulates=run.config.accumulates)
    return (
        yield from dense_steps(
            run.config,
            run.problem,
            run.options.runs,
            epochs,
            flow_every=run.options.flow_every,
            report=run.report,
            wait=wait,
            checkpoint_seconds=run.options.checkpoint_seconds,
        )
    )


def _probe(run: _Run, wait: bool) -> Steps[None]:
    """Make the cut probes that the record lacks, each on the shared dense state of its epoch."""
    done = {row["epoch"] for row in run.record.probes()[0]}
    for epoch in run.config.probed:
        if epoch not in done:
            state = yield from _dense(run, epoch, wait)
            run.record.add_probes(*(yield from probe(state, run.problem, run.config)))


class _Mirror:
    """Sends a tracker each row once, with the cut made at its epoch."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker, self._sent = tracker, 0

    def send(self, history: Sequence[dict], cuts: Sequence[dict], *, last: bool) -> None:
        """Send the rows that the tracker does not have yet; the last one of the history only if
        asked, because a cut may follow it."""
        rows = sent_rows(history, cuts)
        for row in rows[self._sent : None if last else -1]:
            self._tracker.log(row)
            self._sent += 1


def _train(run: _Run, state: State, tracker: Tracker) -> Steps[str]:
    """Train and cut until the end; returns the outcome.

    The tracker gets a row when a checkpoint has it, so that a run that is killed never computes it
    again, and the last ones at the end.
    """
    config, record, mirror = run.config, run.record, _Mirror(tracker)
    mirror.send(state.history, state.cuts, last=False)
    with Checkpoints(config, run.problem.digest, run.options.checkpoint_seconds) as checkpoints:

        def keep(*, due: bool = False) -> None:
            file, previous = record.checkpoint_files
            rows, cuts = list(state.history), list(state.cuts)
            sent = partial(mirror.send, rows, cuts, last=False)
            checkpoints.keep(state, file, previous=previous, due=due, then=sent)

        outcome = yield from _epochs(run, state, keep)
    mirror.send(state.history, state.cuts, last=True)
    return outcome


def _epochs(run: _Run, state: State, keep: Callable[..., None]) -> Steps[str]:
    """The loop over epochs; `keep` gets a state to checkpoint after each cut and each epoch."""
    config, record, timetable = run.config, run.record, schedule(run.config)
    for epoch in range(state.epoch, timetable.total):
        if _diverged(state):
            break
        if epoch in timetable.cuts[len(state.cuts) :]:
            scores_file = record.scores_folder / f"cut-{len(state.cuts) + 1:02d}.npz"
            try:
                cut = make_cut(
                    state, run.problem, config, scores_file, score_every=run.options.score_all
                )
            except CutError as failure:
                return str(failure)
            record.append_cut(cut)
            keep(due=True)
        row = yield from advance(
            state, run.problem, config, timetable.lr(epoch),
            flow_every=run.options.flow_every, report=run.report,
        )  # fmt: skip
        record.append_epoch(row)
        keep()
        run.report.epoch(state)
    return DIVERGED if _diverged(state) else FINISHED


def _diverged(state: State) -> bool:
    loss = state.history[-1]["train/loss"]
    return loss is not None and not math.isfinite(loss)


BEST = {"test/accuracy": max, "test/loss": min, "train/loss": min}
"""Metrics that have a best value."""


def best(history: Sequence[dict], cuts: Sequence[dict]) -> dict[str, float | None]:
    """{metric: its best value in the epochs since the last cut}; None where no value is finite."""
    since = cuts[-1]["epoch"] if cuts else 0
    found = {}
    for key, function in BEST.items():
        values = [row[key] for row in history if row["epoch"] > since]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        found[key] = function(finite, default=None)
    return found


def _summary(run: _Run, state: State, outcome: str) -> dict:
    config = run.config
    after = {name: int(mask.sum()) for name, mask in state.model.masks().items()}
    return {
        "run_id": config.run_id,
        "cell": config.cell,
        "outcome": outcome,
        **state.history[-1],
        "before": {key: state.history[0][key] for key in NET_KEYS},
        "after": cost(state.model, run.problem.size),
        "best": best(state.history, state.cuts),
        "components": {noun: getattr(config, noun) for noun in map(NOUNS.get, config.outside)},
        "plan": {"before": state.model.original, "after": after},
        "samples": run.problem.samples,
        "classes": run.problem.num_classes,
        "data": run.problem.digest,
        **environment(),
        "device": run.options.device_name(),
        "eager": state.eager,
        **latencies(state.model, run.problem.test.images),
        "seconds": state.seconds,
    }
