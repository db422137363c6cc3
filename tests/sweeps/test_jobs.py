"""Which job comes first, what becomes of one, the driver's loop, and records that travel."""

import time

import pytest

from benchmark import record as record_module
from benchmark.errors import ShortageError, UserError
from benchmark.options import Options
from benchmark.record import DenseFolder, Record
from sweeps.engines import drive as drive_module
from sweeps.engines.drive import Outcome, applied, drive
from sweeps.engines.events import Done, Epoch, Failed, Unwritable, Waits
from sweeps.engines.jobs import Job, choice, jobs
from sweeps.engines.worker import attempt
from tests.conftest import tiny_run
from tests.support import simulate
from tests.support.components import COSINE, NAME


def test_a_job_that_would_wait_for_another_ones_dense_phase_comes_later():
    running, long, other, short = jobs(
        tiny_run(epochs=6, **one)
        for one in (
            {"prune_epoch": 1},
            {"prune_epoch": 3},
            {"prune_epoch": 3, "seed": 1},
            {"measure": "none"},
        )
    )
    assert long.wanted == short.wanted == running.wanted == {1, 3, 6}
    assert other.wanted == {3}
    assert choice([long, short, other], [], {}) is long
    assert choice([long, short, other], [running], {}) is other
    assert choice([long, short], [running], {}) is long
    assert choice([long, short], [running], {running.phase: 1}) is short
    assert choice([long, short], [running], {running.phase: 3}) is long
    assert choice([long.later(60), short], [], {}) is short
    assert choice([long.later(60)], [], {}) is None


def test_a_run_that_waits_or_lost_its_machine_is_queued_again_and_that_is_no_attempt():
    job = Job(tiny_run())
    run_id, outcome = job.config.run_id, Outcome()
    lost = Waits(run_id, lost=True)
    for event, told in ((Waits(run_id), None), (lost, lost)):
        queue = []
        assert applied(event, job, queue, outcome, retries=0) == told
        assert (queue[0].config, queue[0].attempts) == (job.config, 0)
        assert 0 < queue[0].not_before - time.monotonic() < 2
    assert (outcome.done, outcome.failed) == ([], {})


def test_a_failed_run_is_queued_again_until_its_attempts_are_used_up():
    job = Job(tiny_run())
    run_id, outcome, queue = job.config.run_id, Outcome(), []
    failed = Failed(run_id, "broken", again=True)
    assert applied(failed, job, queue, outcome, retries=1) is None
    (again,) = queue
    assert again.attempts == 1
    assert applied(failed, again, [], outcome, retries=1) == failed
    assert outcome.failed == {run_id: "broken"}
    applied(Done(run_id, {}), job, [], outcome, retries=1)
    assert outcome.done == [run_id]
    with pytest.raises(UserError, match="the records cannot be written"):
        applied(Unwritable(run_id, "disk full"), job, [], outcome, retries=1)


class Script:
    """An engine that reports one scripted event per run and tick."""

    ahead = 0

    def __init__(self, options, configs, script):
        self.script, self.started, self.running, self.most = script, [], [], 0
        self.stopped = False

    def slots(self):
        return 2

    def start(self, job):
        self.started.append((job.config.run_id, job.attempts))
        self.running.append(job.config.run_id)
        self.most = max(self.most, len(self.running))

    def events(self):
        events = [self.script[run_id].pop(0) for run_id in self.running]
        self.running = [e.run_id for e in events if isinstance(e, Epoch)]
        return events

    def stop(self):
        self.stopped = True


@pytest.fixture
def quick(monkeypatch):
    for name in ("BACK_OFF", "BUSY_SECONDS", "TICK_SECONDS"):
        monkeypatch.setattr(drive_module, name, 0.01)


@pytest.mark.usefixtures("quick")
def test_the_driver_works_through_a_grid_on_any_engine(options, monkeypatch):
    monkeypatch.setattr(drive_module, "check_finished", lambda *_: None)  # of simulated data
    finished, *configs = [tiny_run(seed=seed) for seed in range(5)]
    simulate.simulate(options.runs, [finished])
    a, b, c, d = (config.run_id for config in configs)
    epochs = [Epoch(run_id, {"epoch": 1}, 2.0) for run_id in (a, b)]
    broken = Failed(b, "broken", again=True)
    script = {
        a: [epochs[0], Waits(a, lost=True), Done(a, {})],
        b: [broken, epochs[1], broken],
        c: [Waits(c), Done(c, {})],
        d: [Failed(d, "bad input", again=False)],
    }
    engines, seen = [], []

    def engine(*given):
        engines.append(Script(*given, script))
        return engines[-1]

    outcome = drive([finished, *configs], options, engine, seen.append, retries=1)
    assert outcome.skipped == [finished.run_id]
    assert sorted(outcome.done) == sorted([a, c])
    assert outcome.failed == {b: "broken", d: "bad input"}
    assert outcome.busy == 4.0
    assert outcome.wall > 0
    assert not any(script.values())
    assert (engines[0].most, engines[0].stopped) == (2, True)
    assert (b, 1) in engines[0].started
    assert len(engines[0].started) == 7
    ends = [
        Done(a, {}),
        Done(c, {}),
        broken,
        Failed(d, "bad input", again=False),
        Waits(a, lost=True),
    ]
    assert sorted(map(str, seen)) == sorted(map(str, epochs + ends))
    again = drive([finished], options, engine, seen.append)
    assert (again.skipped, len(engines)) == ([finished.run_id], 1)


def test_epochs_after_a_cut_are_not_of_the_dense_phase(options, monkeypatch):
    """A run that starts from a later epoch of the phase waits; another one is started before it."""
    monkeypatch.setattr(drive_module, "BUSY_SECONDS", 0)
    cut, later = (tiny_run(epochs=6, prune_epoch=epoch) for epoch in (1, 3))
    one, two = (tiny_run(epochs=6, seed=seed) for seed in (1, 2))
    script = {
        later.run_id: [Waits(later.run_id), Done(later.run_id, {})],
        one.run_id: [Waits(one.run_id), Done(one.run_id, {})],
        cut.run_id: [Epoch(cut.run_id, {"epoch": 5}, 1.0), Done(cut.run_id, {})],
        two.run_id: [Done(two.run_id, {})],
    }
    engine = Script(options, [], script)
    drive([cut, later, one, two], options, lambda *_: engine, lambda event: None)
    order = [later, one, cut, two, one, later]
    assert [run_id for run_id, _ in engine.started] == [config.run_id for config in order]


@pytest.mark.usefixtures("quick")
def test_an_engine_is_stopped_when_the_records_cannot_be_written(options):
    config, engines = tiny_run(prune_epoch=2), []

    def engine(*given):
        run_id = config.run_id
        engines.append(Script(*given, {run_id: [Unwritable(run_id, "disk full")]}))
        return engines[-1]

    with pytest.raises(UserError, match=r"cannot be written \(disk full\)"):
        drive([config], options, engine, lambda event: None)
    assert engines[0].stopped
    assert DenseFolder(options.runs, config).wanted(2)


def test_what_lies_in_another_users_folder_is_left_there(tmp_path, monkeypatch):
    config = tiny_run()
    simulate.simulate(tmp_path, [config])
    checkpoint = Record(tmp_path / config.run_id).checkpoint_file
    checkpoint.touch()

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(drive_module, "held", forbidden)
    monkeypatch.setattr(record_module, "held", forbidden)
    drive_module.tidy([config], tmp_path)
    assert checkpoint.exists()


def test_a_record_travels_whole_and_is_finished_last(tmp_path):
    pytest.importorskip("ray", reason="flowprune[ray] is not installed")
    from sweeps.engines.ray import pack, unpack

    there, here = Record(tmp_path / "there"), Record(tmp_path / "here")
    there.start(tiny_run())
    there.scores_folder.mkdir()
    (there.scores_folder / "cut-01.npz").write_bytes(b"scores")
    there.finish({"epoch": 3})
    there.lock_file.touch()
    here.start(tiny_run())
    here.fail("its machine had no memory", "")
    files = pack(there)
    assert list(files)[-1] == "summary.json"
    unpack(here, files)
    assert here.finished
    assert here.failure() is None
    assert {
        path.relative_to(here.folder).as_posix()
        for path in here.folder.rglob("*")
        if path.is_file()
    } == set(files)
    assert pack(here) == files


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ShortageError("data file x cannot be read (Permission denied)"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (UserError("measure must be another"), False),
    ],
)
def test_what_may_pass_is_tried_again(tmp_path, monkeypatch, error, again):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("sweeps.engines.slots.run_steps", lambda *_, **__: map(fails, [0]))
    event = attempt(tiny_run(), Options(runs=tmp_path, wandb="disabled"), lambda epoch: None)
    assert isinstance(event, Failed)
    assert event.again == again


def test_a_worker_finds_a_measure_whose_only_copy_is_in_a_record(options):
    """The user's file is gone, and the driver names no file."""
    copy = options.runs / "another-s0" / "components" / "measures" / "cosine.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(COSINE)
    event = attempt(tiny_run(measure=NAME, epochs=1), options, lambda epoch: None)
    assert isinstance(event, Done), event
