"""The record of a run: its own files, the truth of which every tracker is a mirror.

runs/<run_id>/config.json    the fields of the run
             history.jsonl   one object per epoch
             cuts.jsonl      one object per cut
             scores/         cut-01.npz ...: per-filter scores at a cut
             checkpoint.pt   the state after the last epoch, until the run is finished
             failed.json     the error of the last attempt, if it failed
             summary.json    written last: a run is finished if and only if it exists
runs/_dense/<run_id>/        the shared dense phases (see `DenseFolder`)
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.errors import UserError

DENSE = "_dense"
"""Folder of the shared dense phases, beside the runs."""

FLOW_KEYS = ("grad_norm", "weight_norm_sq", "theta_g", "theta_hg", "g_hg")
NET_KEYS = ("net/filters", "net/params", "net/macs")
HISTORY_KEYS = (
    "epoch", "train/loss", "train/accuracy", "test/loss", "test/accuracy", "lr",
    *NET_KEYS, "time/seconds", "time/images_per_second", *(f"flow/{key}" for key in FLOW_KEYS),
)  # fmt: skip


class Record:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.json"
        self.history_file = self.folder / "history.jsonl"
        self.cuts_file = self.folder / "cuts.jsonl"
        self.scores_folder = self.folder / "scores"
        self.summary_file = self.folder / "summary.json"
        self.checkpoint_file = self.folder / "checkpoint.pt"
        self.failure_file = self.folder / "failed.json"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.summary_file.exists()

    def start(self, config: RunConfig) -> None:
        """Make the folder and write the configuration; an earlier failure is forgotten."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failure_file.unlink(missing_ok=True)
        write_json(self.config_file, config.to_dict())

    def config(self) -> RunConfig:
        """The run's configuration."""
        return RunConfig.from_dict(read_json(self.config_file))

    def history(self) -> list[dict]:
        """One row per epoch."""
        return read_lines(self.history_file)

    def cuts(self) -> list[dict]:
        """One row per cut."""
        return read_lines(self.cuts_file)

    def summary(self) -> dict:
        """The summary of a finished run."""
        return read_json(self.summary_file)

    def restore(self, history: list[dict], cuts: list[dict]) -> None:
        """Make the files say what a checkpoint knows, and nothing that came after it."""
        write_lines(self.history_file, history)
        write_lines(self.cuts_file, cuts)

    def append_epoch(self, row: dict) -> None:
        """Add the row of an epoch."""
        assert tuple(row) == HISTORY_KEYS, set(row) ^ set(HISTORY_KEYS)
        append_line(self.history_file, row)

    def append_cut(self, row: dict) -> None:
        """Add the row of a cut."""
        append_line(self.cuts_file, row)

    def fail(self, error: str, log: str) -> None:
        """Note why an attempt failed."""
        write_json(self.failure_file, {"error": error, "log": log})

    def failure(self) -> dict | None:
        """`error` and `log` of the last attempt, if it failed."""
        return read_json(self.failure_file) if self.failure_file.exists() else None

    def finish(self, summary: dict) -> None:
        """Write the summary, which makes the run finished, and drop the checkpoint."""
        write_json(self.summary_file, summary)
        self.checkpoint_file.unlink(missing_ok=True)


class DenseFolder:
    """The states of a shared dense phase: `epoch-NNNN.pt`, and `epoch-NNNN.wanted` where a run waits for one."""

    def __init__(self, runs: Path, config: RunConfig) -> None:
        self.folder = Path(runs) / DENSE / config.dense().run_id
        self.lock_file = self.folder / ".lock"

    def state_file(self, epoch: int) -> Path:
        """The state after this many epochs."""
        return self.folder / f"epoch-{epoch:04d}.pt"

    def nearest(self, epoch: int) -> Path | None:
        """The furthest state that is not beyond `epoch`."""
        return max((p for p in self.folder.glob("epoch-*.pt") if p <= self.state_file(epoch)), default=None)

    def want(self, epoch: int) -> None:
        """Ask whoever trains to keep the state after `epoch` epochs."""
        if not self.state_file(epoch).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._mark(epoch).touch()

    def granted(self, epoch: int) -> bool:
        """Whether that state was wanted; the wish is then fulfilled."""
        wanted = self._mark(epoch).exists()
        self._mark(epoch).unlink(missing_ok=True)
        return wanted

    def _mark(self, epoch: int) -> Path:
        return self.state_file(epoch).with_suffix(".wanted")


def run_folders(runs: Path) -> list[Path]:
    """The folders of all runs, finished or not, sorted by name. Raises `UserError` if there is no such folder."""
    if not Path(runs).is_dir():
        raise UserError(f"runs folder {runs} does not exist")
    return sorted(path.parent for path in Path(runs).glob("*/config.json"))


def write_json(path: Path, value: dict) -> None:
    """Write a file as a whole or not at all."""
    write_atomically(path, (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by a file with this content, on disk before it takes the name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict:
    """Read a file that `write_json` wrote. Raises `UserError` that names a missing or broken one."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"record file {path} is missing") from None
    except json.JSONDecodeError as error:
        raise UserError(f"record file {path} is not valid JSON ({error})") from None


def append_line(path: Path, row: dict) -> None:
    """Append one JSON object as a line."""
    with path.open("a") as file:
        file.write(json.dumps(_plain(row), allow_nan=False) + "\n")


def write_lines(path: Path, rows: list[dict]) -> None:
    """Replace a file of JSON lines."""
    write_atomically(path, "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict]:
    """All rows of a file of JSON lines; a last line without its end (a killed writer's) does not count."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"record file {path}, line {number}, is not valid JSON ({error})") from None
    return rows


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
