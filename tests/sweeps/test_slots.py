"""Runs that take turns in one thread have the numbers of runs alone, whatever the others do. On a
CPU stand-ins record what CUDA would: streams, and graphs that are replayed."""

import contextlib
import itertools
import time

import pytest
import torch

from benchmark.locks import held
from benchmark.options import Options
from benchmark.record import Record
from benchmark.run import run
from benchmark.training import epoch as epoch_module
from benchmark.training import step as steps
from benchmark.training.step import ReplayedStep
from sweeps.engines import slots as slots_module
from sweeps.engines.events import Done, Failed, Waits
from sweeps.engines.slots import Slots
from tests.benchmark.test_run import science
from tests.conftest import tiny_run

pytestmark = pytest.mark.xdist_group("slots")
CONFIGS = [
    tiny_run(measure="loss", prune_epoch=2, rounds=2, epochs=5, train_limit=110),
    tiny_run(measure="none", epochs=4, train_limit=110, seed=1),
    tiny_run(measure="magnitude", arch="mobilenet_v1", epochs=2),
    tiny_run(measure="random", prune_epoch=1, rounds=2, cut_momentum="carry", epochs=4, seed=2),
]


class Streams:
    """Which stream is the current one, and what was recorded and replayed on each."""

    def __init__(self):
        self.made, self.here, self.log = 0, None, []

    def place(self):
        self.made += 1
        name = self.made

        @contextlib.contextmanager
        def on():
            assert self.here is None
            self.here = name
            try:
                yield
            finally:
                self.here = None

        return on

    def on_the_side(self, step, device):
        self.log.append(("eager", self.here))
        step()

    def captured(self, step, stream):
        home = self.here
        self.log.append(("captured", home))

        def replay():
            assert self.here == home
            self.log.append(("replayed", home))
            step()

        return replay


@pytest.fixture
def streams(monkeypatch):
    made = Streams()
    monkeypatch.setattr(epoch_module, "step_kind", lambda device: ReplayedStep)
    monkeypatch.setattr(epoch_module, "MOST_STEPS", 1)
    for name in ("on_the_side", "captured"):
        monkeypatch.setattr(steps, name, getattr(made, name))
    monkeypatch.setattr(steps, "side_stream", lambda device: None)
    monkeypatch.setattr(slots_module, "own_place", lambda options: made.place())
    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What each run is alone, one after another, with eager steps."""
    folder = tmp_path_factory.mktemp("alone")
    there = Options(runs=folder / "runs", data=folder, wandb="disabled", device="cpu")
    for config in CONFIGS:
        run(config, there)
    return {config.run_id: science(config, there) for config in CONFIGS}


def packed(options, configs, tell=lambda epoch: None, between=lambda slots: None):
    """Execute runs in slots; returns how each ended."""
    slots, events = Slots(options, tell), {}
    with options.applied():
        for config in configs:
            slots.begin(config)
        while slots.slots:
            events |= {event.run_id: event for event in slots.turn()}
            between(slots)
    return events


def test_four_runs_at_once_have_the_bits_of_one_at_a_time(options, alone, streams):
    told = []
    events = packed(options, CONFIGS, told.append)
    assert all(isinstance(event, Done) for event in events.values())
    assert {config.run_id: science(config, options) for config in CONFIGS} == alone
    assert {home for _, home in streams.log} == {1, 2, 3, 4}
    turns = [home for kind, home in streams.log if kind == "replayed"]
    assert sum(a != b for a, b in itertools.pairwise(turns)) > len(turns) / 2
    order = [epoch.run_id for epoch in told]
    assert len(set(order[:4])) >= 2  # they went on side by side


def test_a_run_that_raises_and_one_that_collapses_leave_the_others_alone(
    options, alone, streams, monkeypatch
):
    from benchmark import run as run_module
    from benchmark.training import dense
    from benchmark.training.cut import CutError

    first, second, *others = CONFIGS
    cut = run_module.make_cut

    def faulty(state, problem, config, *arguments, **options):
        if config == first:
            raise CutError("collapsed")
        return cut(state, problem, config, *arguments, **options)

    def broken(state, problem, config, *arguments, **more):
        if config.seed == second.seed and state.epoch == 2:
            raise RuntimeError("broken")
        return advance(state, problem, config, *arguments, **more)

    advance = dense.advance
    monkeypatch.setattr(run_module, "make_cut", faulty)
    monkeypatch.setattr(dense, "advance", broken)
    events = packed(options, CONFIGS)
    assert events[first.run_id].summary["outcome"] == "collapsed"
    failed = events[second.run_id]
    assert isinstance(failed, Failed)
    assert failed.error == "RuntimeError: broken"
    assert "broken" in Record(options.runs / second.run_id).failure()["log"]
    for config in others:
        assert science(config, options) == alone[config.run_id]


def test_runs_that_are_stopped_in_the_middle_go_on_to_the_same_bits(options, alone, streams):
    turns = iter(range(1000))

    def stop(slots):
        if next(turns) == 25:
            slots.stop(SystemExit(143))

    packed(options, CONFIGS, between=stop)
    records = [Record(options.runs / config.run_id) for config in CONFIGS]
    assert not all(record.finished for record in records)
    assert not any(record.lock_file.exists() for record in records)
    packed(options, CONFIGS)
    assert {config.run_id: science(config, options) for config in CONFIGS} == alone


def test_a_run_whose_lock_or_dense_phase_is_taken_waits_while_the_others_go_on(options, streams):
    taken, *others = CONFIGS
    record = Record(options.runs / taken.run_id)
    record.folder.mkdir(parents=True)
    with held(record.lock_file, wait=False):
        events = packed(options, CONFIGS)
    assert events.pop(taken.run_id) == Waits(taken.run_id)
    assert {type(event) for event in events.values()} == {Done}
    assert len(events) == len(others)


def test_two_runs_of_one_dense_phase_train_it_once(options, streams):
    """The second finds it taken by the first, in the same process, and is started again later."""
    one, two = (tiny_run(measure=m, prune_epoch=2, epochs=4) for m in ("loss", "random"))
    events = packed(options, [one, two])
    assert isinstance(events[one.run_id], Done)
    assert events[two.run_id] == Waits(two.run_id)
    assert isinstance(packed(options, [two])[two.run_id], Done)


def test_a_worker_waits_no_longer_than_the_first_run_asks_for(options, monkeypatch):
    def waiting(seconds):
        yield seconds
        return {}

    lengths = iter([5.0, 0.05])
    monkeypatch.setattr(slots_module, "run_steps", lambda *_, **__: waiting(next(lengths)))
    slots = Slots(options, lambda epoch: None)
    slow, quick = CONFIGS[:2]
    for config in (slow, quick):
        slots.begin(config)
    start = time.monotonic()
    assert slots.turn() == []
    assert slots.turn() == [Done(quick.run_id, {})]
    assert 0.04 < time.monotonic() - start < 2


def test_random_states_of_runs_are_apart(options, streams):
    """Dropout draws from torch's global state."""
    from benchmark.training.epoch import Random

    one, two = (Random(7, torch.device("cpu")) for _ in range(2))
    drawn = []
    for source in (one, two, one, two):
        with source.drawn():
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]
    assert drawn[0] != drawn[2]


def test_an_error_at_the_end_of_one_run_does_not_keep_the_others_from_ending(options, monkeypatch):
    ended = []

    def work(number):
        try:
            yield 0.0
            yield 0.0
        except SystemExit:
            ended.append(number)
            if number == 2:
                raise OSError("disk full") from None
            raise

    numbers = iter([1, 2, 3])
    monkeypatch.setattr(slots_module, "run_steps", lambda *_, **__: work(next(numbers)))
    slots = Slots(options, lambda epoch: None)
    for config in CONFIGS[:3]:
        slots.begin(config)
    assert slots.turn() == []
    with pytest.raises(OSError, match="disk full"):
        slots.stop(SystemExit(143))
    assert sorted(ended) == [1, 2, 3]
