"""Whether the record of a finished run is one: whole, and of the kinds of values that a run writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.config import MOST
from benchmark.errors import UserError, require
from benchmark.record import FINISHED, OUTCOMES, Record
from benchmark.schedule import schedule

if TYPE_CHECKING:
    from analysis.sources import Run

MOST_FLOAT = 1e300
STATES = ("before", "after", "after_fresh", "predicted", "actual")
"""The groups of numbers in the row of a cut."""


def check_values(place: str, run: Run) -> None:
    """Raise `UserError` unless rows and summary of a finished run have the kinds of values that a run writes."""
    for number, row in enumerate(run.history, start=1):
        _numbers(f"{place}, row {number} of the history", row)
    for number, cut in enumerate(run.cuts, start=1):
        _cut(f"{place}, cut {number}", cut)
    _summary(f"{place}, summary", run.summary)


def check(record: Record, run: Run) -> None:
    """Raise `UserError` that names the file, the place and what is wrong there."""
    for line, row in enumerate(run.history, start=1):
        _numbers(f"record file {record.history_file}, line {line}", row)
    for line, cut in enumerate(run.cuts, start=1):
        _cut(f"record file {record.cuts_file}, line {line}", cut)
    _summary(f"record file {record.summary_file}", run.summary)
    told, rows = run.summary.get("epoch"), len(run.history)
    if rows - 1 != told:
        found = f"rows up to epoch {rows - 1}" if rows else "no rows"
        raise UserError(f"record file {record.history_file} has {found}, but the summary is of epoch {told}")
    due = len(schedule(run.config).cuts)
    if run.summary["outcome"] == FINISHED and len(run.cuts) != due:
        raise UserError(f"record file {record.cuts_file} has {len(run.cuts)} of {due} cuts, but the run is finished")


def _cut(place: str, cut: dict) -> None:
    _counts(place, {"epoch": cut.get("epoch"), "round": cut.get("round")})
    _numbers(place, {"seconds": cut.get("seconds")})
    _counts(f"{place}, kept", cut.get("kept"))
    _numbers(f"{place}, agreement", cut.get("agreement", {}))
    for state in STATES:
        _numbers(f"{place}, {state}", cut.get(state))


def _summary(place: str, summary: dict) -> None:
    require(summary.get("outcome") in OUTCOMES, f"{place}: outcome", summary.get("outcome"), " or ".join(OUTCOMES))
    for key in ("data", "device", "commit", "processor"):
        require(isinstance(summary.get(key), str), f"{place}: {key}", summary.get(key), "a text")
    require(isinstance(summary.get("versions"), dict), f"{place}: versions", summary.get("versions"), "an object")
    require(isinstance(summary.get("plan"), dict), f"{place}: plan", summary.get("plan"), "an object")
    _numbers(place, {"seconds": summary.get("seconds"), "threads": summary.get("threads")})
    _counts(f"{place}, samples", summary.get("samples"))
    _numbers(f"{place}, plan.before", summary["plan"].get("before"))
    for when in ("before", "after"):
        _numbers(f"{place}, {when}", summary.get(when))


def _numbers(place: str, values: object) -> None:
    require(isinstance(values, dict), place, values, "an object of numbers")
    for key, value in values.items():
        good = value is None or (type(value) in (int, float) and abs(value) <= MOST_FLOAT)
        require(good, f"{place}: {key}", value, "a number or null")


def _counts(place: str, values: object) -> None:
    require(isinstance(values, dict), place, values, "an object of numbers")
    for key, value in values.items():
        good = type(value) in (int, float) and 0 <= value <= MOST and value == int(value)
        require(good, f"{place}: {key}", value, "a whole number")
