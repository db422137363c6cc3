"""The flat rows of numbers that W&B gets of a run, and the way back to the record.

W&B keeps one row per epoch, with the cut made at it, and one summary. It does not keep the order of
keys, returns 7.0 as 7, and may return a number that is not finite as a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from benchmark.config import MOST, RULES, RunConfig
from benchmark.errors import require
from benchmark.record import FLOW_KEYS, HISTORY_KEYS, MOVED

CUT = "cut/"
"""Prefix of the numbers of a cut in the row of its epoch."""
CONVS = "plan/convs"
"""Key of a summary: the convs of the net, in order."""
STATE_KEYS = {
    **dict.fromkeys(("before", "after"), ("loss", "accuracy", *FLOW_KEYS)),
    "after_fresh": ("loss", "accuracy", "grad_norm"),
    **dict.fromkeys(("predicted", "actual"), ("loss_change", "grad_norm_sq_change")),
}
"""{group of numbers of a cut: its keys}, in the order of a record."""


def sent_config(config: RunConfig) -> dict[str, object]:
    """The configuration of a W&B run: the fields, `run_id`, `cell` and `rules`."""
    return {**config.to_dict(), "run_id": config.run_id, "cell": config.cell, "rules": RULES}


def sent_row(row: Mapping, cut: Mapping | None = None) -> dict[str, object]:
    """The row of an epoch, with the cut made at it."""
    return flat(row) | flat(
        {key: value for key, value in (cut or {}).items() if key != "epoch"}, CUT
    )


def sent_summary(summary: Mapping) -> dict[str, object]:
    """The summary of a W&B run."""
    return flat(summary) | {CONVS: list(summary["plan"]["before"])}


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


def record(rows: Iterable[Mapping], summary: Mapping) -> tuple[list[dict], list[dict], dict]:
    """History, cuts and summary of a run that ended, from what W&B has of it.

    Numbers that W&B lacks are None; of two rows of an epoch the later one is used. `scores` of a
    cut, and what no analysis needs of a summary, are left out. Raises ValueError, TypeError or
    KeyError for values that no run sends.
    """
    by_epoch = {whole_number("epoch", row["epoch"]): row for row in rows if "epoch" in row}
    ordered = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    convs = summary.get(CONVS, ())
    cuts = [_cut(row, convs) for row in ordered if f"{CUT}round" in row]
    history = [
        _numbers(row, (*HISTORY_KEYS, *sorted(key for key in row if key.startswith(MOVED))))
        for row in ordered
    ]
    return history, cuts, _summary(summary, convs)


def whole_number(name: str, value: object) -> int:
    """A count as an int. Raises `UserError` if it is not a whole number."""
    good = type(value) in (int, float) and 0 <= value <= MOST and value == int(value)
    require(good, name, value, f"a whole number up to {MOST}")
    return int(value)


def _cut(row: Mapping, convs: Sequence[str]) -> dict:
    values = part(row, CUT)
    kept, agreement = part(values, "kept/"), part(values, "agreement/")
    states = {name: (part(values, f"{name}/"), keys) for name, keys in STATE_KEYS.items()}
    return {
        "round": whole_number("round", values.get("round")),
        "epoch": whole_number("epoch", row["epoch"]),
        "kept": {conv: int(kept[conv]) for conv in convs if conv in kept},
        **{
            name: _numbers(found, dict.fromkeys((*keys, *sorted(found))))
            for name, (found, keys) in states.items()
        },
        "agreement": _numbers(agreement, agreement),
        **_numbers(values, ("seconds",)),
    }


def _numbers(values: Mapping, keys: Iterable[str]) -> dict[str, float | None]:
    """The numbers under these keys; None for one that is missing or not finite."""

    def number(value: object) -> float | None:
        return value if isinstance(value, (int, float)) and isfinite(value) else None

    return {key: number(values.get(key)) for key in keys}


def _summary(values: Mapping, convs: Sequence[str]) -> dict:
    plan = part(values, "plan/before/")
    groups = {name: part(values, f"{name}/") for name in ("before", "after", "samples", "versions")}
    return {
        "outcome": values["outcome"],
        "epoch": whole_number("epoch", values.get("epoch", 0)),
        **groups,
        "plan": {"before": {conv: plan[conv] for conv in convs if conv in plan}},
        **{key: values.get(key, "") for key in ("data", "commit", "processor", "device")},
        **{key: values.get(key) for key in ("threads", "classes", "seconds")},
    }
