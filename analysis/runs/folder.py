"""Run records in a folder, as a run writes them."""

from __future__ import annotations

from pathlib import Path

from analysis.runs.check import check
from analysis.runs.frames import Frames, Run, to_frames
from benchmark.errors import UserError
from benchmark.record import Record, run_folders


def read_folder(source: str) -> Frames:
    """The frames of a folder of run records; `set_aside` has the records that cannot be read.

    Raises `UserError` if there is no such folder.
    """
    runs, set_aside = [], []
    for folder in run_folders(Path(source)):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            set_aside.append(str(error))
    return to_frames(runs, set_aside, source)


def read_run(folder: Path) -> Run:
    """The record of one run. Raises `UserError` that names a missing, broken or truncated file."""
    record = Record(folder)
    config = record.checked_config().canonical()
    if not record.finished:
        return Run(config, (), (), None)
    run = Run(config, record.history(), record.cuts(), record.summary(), *record.probes())
    check(record, run)
    return run
