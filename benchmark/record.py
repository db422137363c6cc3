"""The record of a run: files that are complete without any tracker.

runs/<run_id>/config.json    the fields of the run, and the `rules` that they belong to
             history.jsonl   one object per epoch
             cuts.jsonl      one object per cut
             probes.jsonl    one object per cut probe of a dense run
             probe_ranks.jsonl  one object per epoch and pair of measures: their rank correlation
             scores/         cut-01.npz ...: per-filter scores at a cut
             components/     copies of the files of components that are not part of the suite:
                             measures/, models/, data/
             model.pt        the final net, if asked for (see `benchmark.models.load`)
             checkpoint.pt   the state after the last epoch, until the run is finished; the state
                             before it is checkpoint.previous.pt
             .lock           exists while a process executes the run
             failed.json     the error of the last attempt, if it failed
             summary.json    written last: a run is finished if and only if it exists
runs/_dense/<run_id>/        the shared dense phases (see `DenseFolder`)
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmark import outside
from benchmark.config import RULES, RunConfig
from benchmark.errors import UserError, require
from benchmark.files import (
    append_line,
    last_line,
    read_json,
    read_lines,
    remove,
    remove_temporaries,
    sync,
    write_atomically,
    write_json,
    write_lines,
)
from benchmark.locks import BusyError, held

DENSE = "_dense"
"""Folder of the shared dense phases, beside the runs."""

FINISHED, DIVERGED, COLLAPSED = "finished", "diverged", "collapsed"
OUTCOMES = {
    FINISHED: "all epochs were trained",
    DIVERGED: "the loss or a score became NaN or infinite",
    COLLAPSED: "pruning removed a whole layer, or cut off all convs from the gradient",
}
"""The outcomes of a run, and what they mean. A run of any outcome has a summary."""

FLOW_KEYS = ("grad_norm", "weight_norm_sq", "theta_g", "theta_hg", "g_hg")
NET_KEYS = ("net/filters", "net/params", "net/macs")
HISTORY_KEYS = (
    "epoch", "train/loss", "train/accuracy", "test/loss", "test/accuracy", "lr",
    *NET_KEYS, "time/seconds", "time/images_per_second", *(f"flow/{key}" for key in FLOW_KEYS),
)  # fmt: skip
"""The keys of every row of a history, in their order."""
LATENCY_KEYS = (
    "latency/one/before", "latency/batch/before", "latency/one/after", "latency/batch/after",
)  # fmt: skip
"""Keys of a summary: milliseconds per image of the dense and of the final net."""
PROBE_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of the filters that each cut probe removes."""
PROBE_KEYS = ("loss", "grad_norm", "theta_g", "theta_hg")
"""Numbers before and after a cut probe; null where they are not measured."""


def _file(name: str) -> property:
    return property(lambda self: self.folder / name)


class Record:
    """The files of one run."""

    config_file = _file("config.json")
    history_file = _file("history.jsonl")
    cuts_file = _file("cuts.jsonl")
    scores_folder = _file("scores")
    probes_file = _file("probes.jsonl")
    probe_ranks_file = _file("probe_ranks.jsonl")
    model_file = _file("model.pt")
    summary_file = _file("summary.json")
    checkpoint_file = _file("checkpoint.pt")
    previous_checkpoint_file = _file("checkpoint.previous.pt")
    failure_file = _file("failed.json")
    lock_file = _file(".lock")

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def checkpoint_files(self) -> tuple[Path, Path]:
        """The latest checkpoint and the one before it."""
        return self.checkpoint_file, self.previous_checkpoint_file

    @property
    def finished(self) -> bool:
        """Whether the run has ended, with whatever outcome."""
        return self.summary_file.exists()

    def start(self, config: RunConfig) -> None:
        """Make the folder, write the configuration and copies of the components from outside that
        this process knows; remove the note of an earlier failure."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_temporaries()
        remove(self.failure_file)
        for component in outside.given():
            if config.outside.get(component.kind) == component.name:
                copy = self.folder / component.copy
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(copy, component.content)
        write_json(self.config_file, {"rules": RULES, **config.to_dict()})

    def config(self) -> RunConfig:
        """The run's configuration. Raises `UserError` for a run of another version of the rules,
        whose numbers have another meaning."""
        values = read_json(self.config_file)
        check_rules(f"run folder {self.folder}", values.pop("rules", 1))
        return RunConfig.from_dict(values)

    def checked_config(self) -> RunConfig:
        """The run's configuration. Raises `UserError` if it is missing or broken, or if the folder
        has the name of another run."""
        try:
            config = self.config()
        except UserError as error:
            if str(self.folder) in str(error):
                raise
            raise UserError(f"{self.config_file}: {error}") from None
        if config.run_id != self.folder.name:
            raise UserError(
                f"run folder {self.folder} holds the configuration of another run, {config.run_id} "
                f"({config.label}): rename or delete the folder"
            )
        return config

    def history(self) -> list[dict]:
        """One row per epoch, from 0 on. Raises `UserError` for a row that is broken, missing or
        repeated."""
        return _numbered(self.history_file, read_lines(self.history_file), "epoch", first=0)

    def last_epoch(self) -> int:
        """Epochs trained so far; only the last row of the history is read (0 without any)."""
        row = last_line(self.history_file)
        epoch = row.get("epoch") if row else 0
        if type(epoch) is not int:
            raise UserError(f"record file {self.history_file}, last line, has epoch {epoch!r}")
        return epoch

    def cuts(self) -> list[dict]:
        """One row per cut, from round 1 on. Raises `UserError` for a row that is broken, missing or
        repeated."""
        return _numbered(self.cuts_file, read_lines(self.cuts_file), "round", first=1)

    def probes(self) -> tuple[list[dict], list[dict]]:
        """The rows of all cut probes and of their rank correlations, of the epochs that are
        complete."""
        files = (self.probes_file, self.probe_ranks_file)
        rows, ranks = map(read_lines, files)
        for file, part in zip(files, (rows, ranks), strict=True):
            for number, row in enumerate(part, start=1):
                where, epoch = f"record file {file}, line {number}: epoch", row.get("epoch")
                require(type(epoch) in (int, float), where, epoch, "a whole number")
        complete = {row["epoch"] for row in rows}
        return rows, [row for row in ranks if row["epoch"] in complete]

    def add_probes(self, rows: list[dict], ranks: list[dict]) -> None:
        """Add all probes of an epoch. It is complete when its rows are in `probes.jsonl`."""
        before = self.probes()
        write_lines(self.probe_ranks_file, before[1] + ranks)
        write_lines(self.probes_file, before[0] + rows)

    def summary(self) -> dict:
        """The summary of a finished run."""
        return read_json(self.summary_file)

    def restore(self, history: list[dict], cuts: list[dict]) -> None:
        """Reset history and cuts to those of a checkpoint."""
        write_lines(self.history_file, history)
        write_lines(self.cuts_file, cuts)

    def append_epoch(self, row: dict) -> None:
        """Add the row of an epoch."""
        assert row.keys() == set(HISTORY_KEYS), row.keys() ^ set(HISTORY_KEYS)
        append_line(self.history_file, row)

    def append_cut(self, row: dict) -> None:
        """Add the row of a cut."""
        append_line(self.cuts_file, row)

    def fail(self, error: str, log: str) -> None:
        """Record why an attempt failed; log: the file with its output."""
        write_json(self.failure_file, {"error": error, "log": log})

    def failure(self) -> dict | None:
        """`error` and `log` of the last attempt, if it failed."""
        if not self.failure_file.exists():
            return None
        failure = read_json(self.failure_file)
        for key in ("error", "log"):
            where = f"record file {self.failure_file}: {key}"
            require(isinstance(failure.get(key), str), where, failure.get(key), "a text")
        return failure

    def finish(self, summary: dict) -> None:
        """Write the summary, which makes the run finished, after everything else is on the disk;
        then remove the checkpoints."""
        files = (
            self.history_file,
            self.cuts_file,
            self.scores_folder,
            self.probes_file,
            self.probe_ranks_file,
            self.model_file,
        )
        copies = self.folder / outside.COPIES
        for path in (*files, *copies.glob("*"), copies, self.folder, self.folder.parent):
            if path.exists():
                sync(path)
        write_json(self.summary_file, summary)
        sync(self.folder)
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints, which a finished run does not need."""
        for path in self.folder.glob(f"{self.checkpoint_file.stem}*"):
            remove(path)

    def tidy(self) -> None:
        """Remove the files that killed processes left, unless a process executes the run or the
        folder is not writable."""
        with contextlib.suppress(BusyError, OSError), held(self.lock_file, wait=False):
            self._remove_temporaries()
            if self.finished:
                self.drop_checkpoints()

    def _remove_temporaries(self) -> None:
        for folder in (self.folder, self.scores_folder):
            remove_temporaries(folder)


def check_rules(what: str, rules: object, remedy: str = "move it away, or delete it") -> None:
    """Raise `UserError` unless a record was made with the rules of this version."""
    if rules == 1:
        raise UserError(f"{what} was made by flowprune 0.1, which had other definitions: {remedy}")
    require(rules == RULES, f"{what}: rules", rules, f"{RULES} in this version")


class DenseFolder:
    """The states of a shared dense phase: `epoch-NNNN.pt`, and `epoch-NNNN.wanted` if a run starts
    from it."""

    lock_file = _file(".lock")

    def __init__(self, runs: Path, config: RunConfig) -> None:
        self.folder = Path(runs) / DENSE / config.phase

    def state_file(self, epoch: int) -> Path:
        """The state after this many epochs."""
        return self.folder / f"epoch-{epoch:04d}.pt"

    def nearest(self, epoch: int) -> Path | None:
        """The latest state that is not after `epoch`."""
        states = [(_epoch(path), path) for path in self.folder.glob("epoch-*.pt")]
        return max((state for state in states if state[0] <= epoch), default=(0, None))[1]

    def want(self, epoch: int) -> None:
        """Ask the process that trains to keep the state after `epoch` epochs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark(epoch).touch()

    def wanted(self, epoch: int) -> bool:
        """Whether a run starts from that state."""
        return self._mark(epoch).exists()

    def drop_before(self, epoch: int) -> None:
        """Remove the earlier states that no run starts from."""
        for path in self.folder.glob("epoch-*.pt"):
            if _epoch(path) < epoch and not path.with_suffix(".wanted").exists():
                remove(path)

    def _mark(self, epoch: int) -> Path:
        return self.state_file(epoch).with_suffix(".wanted")


def _epoch(state: Path) -> int:
    return int(state.stem.removeprefix("epoch-"))


def run_folders(runs: Path) -> list[Path]:
    """The folders of all runs, finished or not, sorted by name. Raises `UserError` if the folder
    `runs` does not exist."""
    if not Path(runs).is_dir():
        what = "is not a folder" if Path(runs).exists() else "does not exist"
        raise UserError(f"runs folder {runs} {what}")
    return sorted(path.parent for path in Path(runs).glob("*/config.json"))


def _numbered(path: Path, rows: list[dict], key: str, first: int) -> list[dict]:
    for line, row in enumerate(rows):
        if row.get(key) != first + line:
            raise UserError(
                f"record file {path}, line {line + 1}, has {key} {row.get(key)} instead of "
                f"{first + line}: rows are missing or repeated"
            )
    return rows
