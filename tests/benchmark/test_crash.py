"""A kill, or a power cut, at every operation on a file of a run: it ends with the same bits, scores
included."""

import dataclasses
import shutil

import pytest

from benchmark import files
from benchmark.record import DENSE
from benchmark.run import run
from tests.benchmark.test_run import record_of, science
from tests.conftest import tiny_run
from tests.support.disk import Disk, Stopped

CONFIG = tiny_run(
    measure="loss",
    prune_epoch=1,
    rounds=2,
    epochs=3,
    train_limit=30,
    test_limit=20,
    batch_size=15,
    score_samples=20,
    probe_samples=10,
)
FATES = {"killed": None, "power cut": True, "power cut, names lost": False}
"""{what happens: whether names since the last fsync of a folder are on the disk}"""
SOME_FATES = [
    "power cut",
    *(pytest.param(fate, marks=pytest.mark.slow) for fate in FATES if fate != "power cut"),
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the run comes to, and its operations on files."""
    from benchmark.options import Options

    runs = tmp_path_factory.mktemp("undisturbed")
    there = Options(runs=runs, wandb="disabled", device="cpu", checkpoint_seconds=0)
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", disk)
        run(CONFIG, there)
    return science(CONFIG, there), disk.log


def stopped_at(operation, fate, options, monkeypatch):
    """Run until the operation, and leave what the fate leaves; whether the run got so far."""
    disk = Disk(operation)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", disk)
        try:
            run(CONFIG, options)
        except Stopped:
            if FATES[fate] is not None:
                disk.cut_power(names=FATES[fate])
            return True
    return False


def check(operations, fate, undisturbed, options, monkeypatch):
    expected, log = undisturbed
    for operation in operations:
        there = dataclasses.replace(options, runs=options.runs / str(operation))
        assert stopped_at(operation, fate, there, monkeypatch), log[operation]
        finished = record_of(CONFIG, there).finished
        run(CONFIG, there)
        assert science(CONFIG, there) == expected, (operation, log[operation], finished)
        left = {path.name for path in record_of(CONFIG, there).folder.rglob("*") if path.is_file()}
        assert left == {
            "config.json",
            "history.jsonl",
            "cuts.jsonl",
            "summary.json",
            "cut-01.npz",
            "cut-02.npz",
        }
        shutil.rmtree(there.runs)


def test_operations_are_of_the_dense_phase_the_cuts_and_the_end(undisturbed):
    log = undisturbed[1]
    expected = (
        "fsync .epoch-0001.pt", "replace epoch-0001.pt", "replace cut-01.npz", "fsync scores",
        "fsync history.jsonl", "replace summary.json", "unlink checkpoint.pt",
        "write history.jsonl",
    )  # fmt: skip
    for seen in expected:
        assert any(line.startswith(seen) for line in log), (seen, log)
    last = log.index("replace summary.json")
    assert {"fsync history.jsonl", "fsync cuts.jsonl", "fsync scores"} <= set(log[last - 15 : last])
    assert all(line.startswith(("unlink", "open", "fsync")) for line in log[last + 1 :])


@pytest.mark.parametrize("fate", FATES)
def test_a_crash_at_some_operations(fate, undisturbed, options, monkeypatch):
    start = list(FATES).index(fate)
    check(range(start, len(undisturbed[1]), 31), fate, undisturbed, options, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fate",
    ["killed", *(pytest.param(fate, marks=pytest.mark.long) for fate in FATES if fate != "killed")],
)
def test_a_crash_at_every_operation(fate, undisturbed, options, monkeypatch):
    check(range(len(undisturbed[1])), fate, undisturbed, options, monkeypatch)


@pytest.mark.parametrize("fate", SOME_FATES)
def test_a_crash_between_rare_checkpoints(fate, undisturbed, options, monkeypatch):
    """Checkpoints are written beside training here, after cuts alone."""
    rare = dataclasses.replace(options, runs=options.runs / "rare", checkpoint_seconds=3600)
    disk = Disk()
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", disk)
        run(CONFIG, rare)
    assert science(CONFIG, rare) == undisturbed[0]
    assert len(disk.log) < len(undisturbed[1])
    assert disk.log.count("replace checkpoint.pt") == CONFIG.rounds  # one after each cut
    start = list(FATES).index(fate)
    check(range(start, len(disk.log), 29), fate, (undisturbed[0], disk.log), rare, monkeypatch)


@pytest.mark.parametrize("fate", FATES)
def test_two_crashes(fate, undisturbed, options, monkeypatch):
    expected, log = undisturbed
    for first in range(5, len(log), 83):
        there = dataclasses.replace(options, runs=options.runs / str(first))
        stopped_at(first, fate, there, monkeypatch)
        stopped_at(first // 2, fate, there, monkeypatch)
        run(CONFIG, there)
        assert science(CONFIG, there) == expected, first


def test_whoever_comes_next_tidies_up(options):
    run(CONFIG, options)
    record = record_of(CONFIG, options)
    litter = [record.checkpoint_file, record.previous_checkpoint_file, record.lock_file]
    litter += [record.folder / ".summary.json.1.tmp", record.scores_folder / ".cut-01.npz.1.tmp"]
    for path in litter:
        path.write_bytes(b"old")
    run(CONFIG, options)
    assert not any(path.exists() for path in litter)


def test_every_file_of_a_record_is_written_by_the_same_module(options, monkeypatch):
    made = set()
    disk = Disk()
    monkeypatch.setattr(files, "os", disk)
    run(CONFIG, options)
    monkeypatch.undo()
    made = {path for path in map(str, options.runs.rglob("*")) if files.os.path.isfile(path)}
    marks = {str(path) for path in (options.runs / DENSE).rglob("*.wanted")}
    assert made - marks <= set(disk.files)
