"""Whether the record of a finished run is whole, and has the kinds of values that a run writes."""

from __future__ import annotations

from itertools import product

from analysis.runs.frames import PROBE_STATES, STATES, Run
from benchmark.config import MOST
from benchmark.errors import UserError, require
from benchmark.record import FINISHED, LATENCY_KEYS, OUTCOMES, PROBE_SHARES, Record
from benchmark.schedule import schedule

MOST_FLOAT = 1e300
"""The largest number that a record may have; no run writes one like it."""


def check_values(
    run: Run, history: str, cuts: str, summary: str, *, probes: str, ranks: str
) -> None:
    """Raise `UserError` unless a finished run has the kinds of values that a run writes.

    history, cuts, probes, ranks: what messages call a row (its number follows). summary: what they
    call the summary.
    """
    for number, row in enumerate(run.history, start=1):
        _numbers(f"{history} {number}", row)
    for number, cut in enumerate(run.cuts, start=1):
        _cut(f"{cuts} {number}", cut)
    for number, row in enumerate(run.probes, start=1):
        _probe(f"{probes} {number}", row)
    for number, row in enumerate(run.ranks, start=1):
        _rank(f"{ranks} {number}", row)
    _summary(summary, run.summary)


def gap(run: Run) -> tuple[str, str] | None:
    """Which rows of a finished run are missing: ("history", "cuts", "probes" or "ranks", in words);
    None if the run is whole."""
    last, epochs = run.summary["epoch"], [row["epoch"] for row in run.history]
    if epochs != list(range(len(epochs))) or len(epochs) - 1 != last:
        found = f"rows up to epoch {epochs[-1]}" if epochs else "no rows"
        return "history", f"has {found}, but the summary is of epoch {last}"
    rounds = [cut["round"] for cut in run.cuts]
    due = len(schedule(run.config).cuts) if run.summary["outcome"] == FINISHED else len(rounds)
    if rounds != list(range(1, due + 1)):
        return "cuts", f"has {len(rounds)} of {due} cuts, but the run is finished"
    convs = run.summary["plan"]["before"].keys()
    if any(not cut["kept"] or cut["kept"].keys() != convs for cut in run.cuts):
        return "cuts", "does not say for each conv of the net how many filters are kept"
    return _probe_gap(run)


def _probe_gap(run: Run) -> tuple[str, str] | None:
    """A net whose loss is not finite is not probed: then its test loss is not finite either."""
    known = {row["epoch"] for row in run.history if row.get("test/loss") is not None}
    due = set(run.config.probed) & known if run.summary["outcome"] == FINISHED else set()
    found: dict[int, list[tuple]] = {epoch: [] for epoch in due}
    for row in run.probes:
        cut = (row["measure"], row["draw"]), row["share"]
        found.setdefault(int(row["epoch"]), []).append(cut)
    if odd := found.keys() - set(run.config.probed):
        return "probes", f"has rows of epoch {min(odd)}, which is not to be probed"
    for epoch, cuts in sorted(found.items()):
        if not cuts or sorted(cuts) != sorted(product({who for who, _ in cuts}, PROBE_SHARES)):
            return "probes", f"does not have each cut of epoch {epoch} once"
    if {row["epoch"] for row in run.ranks} != found.keys():
        return "ranks", "does not have the same epochs as the probes"
    return None


def check(record: Record, run: Run) -> None:
    """Raise `UserError` that names the file and what is wrong in it, unless a record is whole."""
    files = {"history": record.history_file, "cuts": record.cuts_file}
    files |= {"probes": record.probes_file, "ranks": record.probe_ranks_file}
    places = {name: f"record file {file}, line" for name, file in files.items()}
    check_values(run, **places, summary=f"record file {record.summary_file}")
    if found := gap(run):
        part, reason = found
        raise UserError(f"record file {files[part]} {reason}")


def _cut(place: str, cut: dict) -> None:
    _counts(place, {"epoch": cut.get("epoch"), "round": cut.get("round")})
    _numbers(place, {key: cut.get(key) for key in ("seconds", "score_seconds")})
    _counts(f"{place}, kept", cut.get("kept"))
    _numbers(f"{place}, agreement", cut.get("agreement", {}))
    for state in STATES:
        _numbers(f"{place}, {state}", cut.get(state))
    for state, key in (("before", "grad_norm"), ("after", "grad_norm"), ("actual", "loss_change")):
        require(key in cut[state], f"{place}, {state}: {key}", None, "a number or null")


def _probe(place: str, row: dict) -> None:
    _counts(place, {"epoch": row.get("epoch"), "draw": row.get("draw")})
    _texts(place, row, ("measure",))
    share = row.get("share")
    require(share in PROBE_SHARES, f"{place}: share", share, f"one of {PROBE_SHARES}")
    _numbers(place, {key: row.get(key) for key in ("kept_macs", "seconds")})
    for state in PROBE_STATES:
        _numbers(f"{place}, {state}", row.get(state))


def _rank(place: str, row: dict) -> None:
    _counts(place, {"epoch": row.get("epoch")})
    _texts(place, row, ("a", "b"))
    _numbers(place, {"rho": row.get("rho")})


def _texts(place: str, row: dict, keys: tuple[str, ...]) -> None:
    for key in keys:
        require(isinstance(row.get(key), str), f"{place}: {key}", row.get(key), "a text")


def _summary(place: str, summary: dict) -> None:
    outcome = summary.get("outcome")
    require(outcome in list(OUTCOMES), f"{place}: outcome", outcome, " or ".join(OUTCOMES))
    kinds = dict.fromkeys(("data", "device", "commit", "processor"), (str, "a text"))
    kinds |= dict.fromkeys(("versions", "plan"), (dict, "an object"))
    for key, (kind, words) in kinds.items():
        require(isinstance(summary.get(key), kind), f"{place}: {key}", summary.get(key), words)
    _counts(place, {"epoch": summary.get("epoch")})
    numbers = ("seconds", "threads", "classes", *LATENCY_KEYS)
    _numbers(place, {key: summary.get(key) for key in numbers})
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
