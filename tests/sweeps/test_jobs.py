"""What the engines share: which job comes first, what becomes of one, and records that travel."""

import time

import pytest

from benchmark import record as record_module
from benchmark.errors import ShortageError, UserError
from benchmark.options import Options
from benchmark.record import Record
from sweeps.engines import jobs as jobs_module
from sweeps.engines.jobs import DensePhases, Job, Outcome, due, settled
from sweeps.engines.worker import Done, Failed, Lost, Unwritable, Waits, attempt
from tests.conftest import tiny_run
from tests.support import simulate


def jobs(*fields):
    return [Job(tiny_run(epochs=6, **one)) for one in fields]


def test_a_job_that_would_wait_for_another_ones_dense_phase_comes_later():
    running, short, long, other = jobs(
        {"measure": "none"}, {"prune_epoch": 1}, {"prune_epoch": 3}, {"prune_epoch": 3, "seed": 1}
    )
    phases = DensePhases([running, short, long, other])
    assert phases.wanted(long.config) == {1, 3, 6}
    assert phases.first([long, short, other], []) is long
    assert phases.first([long, short, other], [running.config]) is other
    assert phases.first([long, short], [running.config]) is long
    phases.note(running.config, 1)
    assert phases.first([long, short], [running.config]) is short
    phases.note(running.config, 3)
    assert phases.first([long, short], [running.config]) is long
    assert phases.first([], [running.config]) is None


def test_a_run_that_waits_or_lost_its_machine_is_queued_again_and_that_is_no_attempt():
    (job,) = jobs({})
    run_id, outcome = job.config.run_id, Outcome()
    for event, told in ((Waits(run_id), None), (Lost(run_id), Lost(run_id))):
        queue = []
        assert settled(event, job, queue, outcome, retries=0) == told
        assert (queue[0].config, queue[0].attempts) == (job.config, 0)
        assert due(queue) == []
        assert queue[0].not_before - time.monotonic() < 2
    assert (outcome.done, outcome.failed) == ([], {})


def test_a_failed_run_is_queued_again_until_its_attempts_are_used_up():
    (job,) = jobs({})
    run_id, outcome, queue = job.config.run_id, Outcome(), []
    assert settled(Failed(run_id, "broken", again=True), job, queue, outcome, retries=1) is None
    (again,) = queue
    assert again.attempts == 1
    assert (
        settled(Failed(run_id, "broken", again=True), again, [], outcome, retries=1).error
        == "broken"
    )
    assert outcome.failed == {run_id: "broken"}
    settled(Done(run_id, {}), job, [], outcome, retries=1)
    assert outcome.done == [run_id]
    with pytest.raises(UserError, match="the records cannot be written"):
        settled(Unwritable(run_id, "disk full"), job, [], outcome, retries=1)


def test_what_lies_in_another_users_folder_is_left_there(tmp_path, monkeypatch):
    config = tiny_run()
    simulate.simulate(tmp_path, [config])
    checkpoint = Record(tmp_path / config.run_id).checkpoint_file
    checkpoint.touch()

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(jobs_module, "held", forbidden)
    monkeypatch.setattr(record_module, "held", forbidden)
    jobs_module.tidy([config], tmp_path)
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

    monkeypatch.setattr("benchmark.run.run", fails)
    event = attempt(tiny_run(), Options(runs=tmp_path, wandb="disabled"), lambda epoch: None)
    assert isinstance(event, Failed)
    assert event.again == again
