"""What W&B gets of a run, and the way back to the record.

W&B keeps one row per epoch, a short summary for its tables, and the files `summary.json`,
`cuts.jsonl`, `probes.jsonl` and `probe_ranks.jsonl` of the record. Of rows and summary it does not
keep the order of keys, returns 7.0 as 7, and may return a number that is not finite as a text.
Files come back as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from benchmark.config import MOST, RULES, RunConfig
from benchmark.errors import require
from benchmark.files import as_lines
from benchmark.record import HISTORY_KEYS, LATENCY_KEYS, Record

CUT = "cut/"
"""Prefix of the numbers of a cut in the row of its epoch."""
CUT_KEYS = (f"{CUT}round", f"{CUT}loss_change", f"{CUT}kept_macs")
"""The numbers of a cut in the row of its epoch; all others are in `cuts.jsonl`."""
ROWS = ("cuts", "probes", "probe_ranks")
"""The files of rows of a W&B run, without their ending `.jsonl`. A file without rows is not
sent."""
FILES = (*ROWS, "summary")
"""The files of a W&B run, without their endings."""
LINES = "lines/"
"""Prefix of the keys of a summary that say how many lines each file has."""
SHOWN = (
    *HISTORY_KEYS, "outcome", "device", "before/net/params", "before/net/macs",
    "latency/batch/before", "latency/batch/after",
)  # fmt: skip
"""Keys of the record's summary that W&B's has too, besides the groups of `SHOWN_GROUPS`."""
SHOWN_GROUPS = ("best/", "components/")
"""Prefixes of more such keys."""


def sent_config(config: RunConfig) -> dict[str, object]:
    """The configuration of a W&B run: the fields, `run_id`, `cell` and `rules`."""
    return {**config.to_dict(), "run_id": config.run_id, "cell": config.cell, "rules": RULES}


def sent_rows(history: Sequence[Mapping], cuts: Iterable[Mapping]) -> list[dict[str, object]]:
    """The rows of a history, each with the cut made at its epoch.

    `cut/kept_macs` is the share of the dense net's MACs that the cut left; the row after it, which
    has them, must be there.
    """
    made = {cut["epoch"]: cut for cut in cuts}
    return [
        flat(row) | (_cut(made[row["epoch"]], history) if row["epoch"] in made else {})
        for row in history
    ]


def _cut(cut: Mapping, history: Sequence[Mapping]) -> dict[str, object]:
    macs = [row["net/macs"] for row in (history[0], *history[cut["epoch"] + 1 :])]
    kept = macs[1] / macs[0] if all(macs[:2]) and len(macs) > 1 else None
    values = (cut["round"], cut["actual"]["loss_change"], kept)
    return flat(dict(zip(CUT_KEYS, values, strict=True)))


def sent_summary(summary: Mapping, files: Mapping[str, bytes]) -> dict[str, object]:
    """The summary of a W&B run with these files: what its tables and charts need."""
    lines = {f"{LINES}{name}": files.get(file_name(name), b"").count(b"\n") for name in FILES}
    values = flat(summary)
    return {k: v for k, v in values.items() if k in SHOWN or k.startswith(SHOWN_GROUPS)} | lines


def sent_files(record: Record) -> dict[str, bytes]:
    """{name: content} of the files of the W&B run of a finished record."""
    rows = dict(zip(ROWS, (record.cuts(), *record.probes()), strict=True))
    files = {file_name(name): as_lines(found) for name, found in rows.items() if found}
    return files | {file_name("summary"): record.summary_file.read_bytes()}


def file_name(name: str) -> str:
    """The name of a file of a W&B run."""
    return f"{name}.jsonl" if name in ROWS else f"{name}.json"


def due_files(summary: Mapping) -> list[str]:
    """The names of the files that a W&B run with this summary has."""
    return [file_name(name) for name in FILES if summary.get(f"{LINES}{name}")]


def lacks_rows(summary: Mapping, files: Mapping[str, str]) -> bool:
    """Whether files have other numbers of lines than the summary says, or there is no
    `summary.json`."""
    return file_name("summary") not in files or any(
        len(files.get(file_name(name), "").splitlines()) != summary.get(f"{LINES}{name}", 0)
        for name in FILES
    )


def flat(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """{"before": {"loss": 1.0, "accuracy": None}} -> {"before/loss": 1.0}

    Leaves out null, and numbers that are not finite.
    """
    values: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}/")
        elif value is not None and not (isinstance(value, float) and not isfinite(value)):
            values[f"{prefix}{key}"] = value
    return values


def part(values: Mapping, prefix: str) -> dict[str, object]:
    """{"before/loss": 1.0, "seconds": 2.0}, "before/" -> {"loss": 1.0}"""
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def record(
    rows: Iterable[Mapping], files: Mapping[str, str]
) -> tuple[list[dict], list[dict], dict, list[dict], list[dict]]:
    """History, cuts, summary, probes and their ranks of a run that ended, from what W&B has of it.

    Numbers that W&B lacks are None; of two rows of an epoch the later one is used. What no analysis
    needs of a summary is left out. Raises ValueError, TypeError or KeyError for values that no run
    sends.
    """
    by_epoch = {whole_number("epoch", row["epoch"]): row for row in rows if "epoch" in row}
    ordered = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    history = [_numbers(row, HISTORY_KEYS) for row in ordered]
    cuts, probes, ranks = (_rows(name, files) for name in ROWS)
    return history, cuts, _summary(json.loads(files[file_name("summary")])), probes, ranks


def _rows(name: str, files: Mapping[str, str]) -> list[dict]:
    found = [json.loads(line) for line in files.get(file_name(name), "").splitlines()]
    for number, row in enumerate(found, start=1):
        require(isinstance(row, dict), f"{file_name(name)}, line {number},", row, "an object")
    return found


def whole_number(name: str, value: object) -> int:
    """A count as an int. Raises `UserError` if it is not a whole number."""
    good = type(value) in (int, float) and 0 <= value <= MOST and value == int(value)
    require(good, name, value, f"a whole number up to {MOST}")
    return int(value)


def _numbers(values: Mapping, keys: Iterable[str]) -> dict[str, float | None]:
    """The numbers under these keys; None for one that is missing or not finite."""

    def number(value: object) -> float | None:
        return value if isinstance(value, (int, float)) and isfinite(value) else None

    return {key: number(values.get(key)) for key in keys}


def _summary(values: Mapping) -> dict:
    groups = ("before", "after", "samples", "versions")
    return {
        "outcome": values["outcome"],
        "epoch": whole_number("epoch", values.get("epoch", 0)),
        **{name: dict(values[name]) for name in groups},
        "plan": {"before": dict(values["plan"]["before"])},
        **{key: values.get(key, "") for key in ("data", "commit", "processor", "device")},
        **{key: values.get(key) for key in ("threads", "classes", "seconds", *LATENCY_KEYS)},
    }
