"""A run as W&B has it, and the way back to its record: the inverse of
`benchmark.tracking.tracker`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.runs.check import STATES, check_values, gap
from analysis.runs.frames import Run
from benchmark.config import DEFAULTS, MOST, RULES, RunConfig
from benchmark.errors import UserError, require, shortened
from benchmark.record import FLOW_KEYS, HISTORY_KEYS, MOVED, check_rules

RUN_ID = re.compile(r"[0-9a-f]{12}-s\d{1,20}")
STATE_KEYS = {
    **dict.fromkeys(("before", "after"), ("loss", "accuracy", *FLOW_KEYS)),
    "after_fresh": ("loss", "accuracy", "grad_norm"),
    **dict.fromkeys(("predicted", "actual"), ("loss_change", "grad_norm_sq_change")),
}
"""The numbers of a cut in the order of its record: W&B keeps no order, and lacks those that are
null."""


@dataclass(frozen=True)
class Mirror:
    """One W&B run, as its server tells it."""

    id: str
    """W&B's id, which is our run_id but for runs of a `wandb agent`."""
    state: str
    updated: str
    """When its process was last heard of."""
    lines: int
    """Rows of its history, by the server's count."""
    config: dict
    summary: dict
    history: Sequence[dict] = ()

    @property
    def run_id(self) -> str | None:
        """Our identity of the run; None for a run that is none of ours, or has not told it yet."""
        name = self.config.get("run_id")
        return name if isinstance(name, str) and RUN_ID.fullmatch(name) else None

    @property
    def ended(self) -> bool:
        """Whether its process wrote a summary."""
        return "outcome" in self.summary


def runs(mirrors: Iterable[Mirror], place: str) -> tuple[list[Run], list[str], list[str]]:
    """One run per run_id, sorted by it as folders are; the run_ids of those that ended but are not
    whole; and a reason for each W&B run that is left out.

    Of several W&B runs with one run_id (agents, requeued and crashed runs) it is the one that is
    whole and was updated last. A run of which none is whole counts as unfinished. Reasons name the
    W&B run as under `place`.
    """
    known: dict[str, list[Mirror]] = {}
    found, broken, set_aside = [], [], []
    for mirror in mirrors:
        if mirror.run_id:
            known.setdefault(mirror.run_id, []).append(mirror)
        elif mirror.config.get("run_id") is not None:
            name = shortened(repr(mirror.config["run_id"]))
            set_aside.append(
                f"W&B run {place}/{shortened(mirror.id)} has run_id {name}, which is none of this suite"
            )
    for run_id, same in sorted(known.items()):
        same.sort(
            key=lambda mirror: (mirror.state == "finished", mirror.updated, mirror.id), reverse=True
        )
        configs, read = [], []
        for mirror in same:  # an odd one does not stand in the way of a whole one
            try:
                config = _config(mirror, place)
                read += [_checked(config, mirror, place)] if mirror.ended else []
                configs.append(config)
            except UserError as error:
                set_aside.append(str(error))
        if not configs:
            continue
        whole = next((run for run in read if gap(run) is None), None)
        if read and not whole:
            broken.append(run_id)
        found.append(whole or Run(configs[0], (), (), None))
    return found, broken, set_aside


def _checked(config: RunConfig, mirror: Mirror, place: str) -> Run:
    """The record of a run that ended. Raises `UserError` for values that no run writes."""
    where = f"W&B run {place}/{shortened(mirror.id)}"
    try:
        run = record(config, mirror)
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        OverflowError,
    ) as error:  # UserErrors are ValueErrors
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__} "
        raise UserError(f"{where}: {kind}{shortened(str(error))}") from None
    check_values(run, f"{where}, row", f"{where}, cut", f"{where}, summary")
    return run


def record(config: RunConfig, mirror: Mirror) -> Run:
    """The record of a run that ended, from what its W&B run has of it."""
    rows = {
        whole_number("epoch", row["epoch"]): row for row in mirror.history if "epoch" in row
    }  # of two, the later
    ordered = [rows[epoch] for epoch in sorted(rows)]
    convs = mirror.summary.get("plan/convs", ())
    history = [_history_row(row) for row in ordered]
    cuts = [_cut(row, convs) for row in ordered if "cut/round" in row]
    return Run(config, history, cuts, _summary(mirror.summary))


def whole_number(name: str, value: object) -> int:
    """A count. Raises `UserError` for what is none."""
    good = type(value) in (int, float) and 0 <= value <= MOST and value == int(value)
    require(good, name, value, f"a whole number up to {MOST}")
    return int(value)


def number(value: object) -> float | None:
    """A number as a record has it: what is not finite is null. W&B sends such numbers as texts."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _config(mirror: Mirror, place: str) -> RunConfig:
    """The configuration; other keys (a sweep's arguments of the command) do not matter."""
    where = f"W&B run {place}/{mirror.id}"
    check_rules(where, mirror.config.get("rules", 1), f"leave it out with --filter rules={RULES}")
    try:
        config = RunConfig(
            **{name: mirror.config[name] for name in DEFAULTS if name in mirror.config}
        ).canonical()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if config.run_id != mirror.run_id:
        raise UserError(
            f"{where} has run_id {mirror.run_id}, but the configuration of {config.run_id} "
            f"({config.label}): delete it, or leave it out with --filter"
        )
    return config


def _history_row(row: dict) -> dict:
    moved = sorted(key for key in row if key.startswith(MOVED))
    return {key: number(row.get(key)) for key in (*HISTORY_KEYS, *moved)}


def _cut(row: dict, convs: Sequence[str]) -> dict:
    flat = _part(row, "cut/")
    kept = _part(flat, "kept/")
    return {
        "round": whole_number("round", flat.get("round")),
        "epoch": whole_number("epoch", row["epoch"]),
        "kept": {conv: int(kept[conv]) for conv in convs if conv in kept},
        **{state: _numbers(_part(flat, f"{state}/"), STATE_KEYS[state]) for state in STATES},
        "agreement": {pair: number(value) for pair, value in _part(flat, "agreement/").items()},
        "seconds": number(flat.get("seconds")),
    }


def _numbers(flat: dict, keys: Sequence[str]) -> dict:
    return {key: number(flat.get(key)) for key in dict.fromkeys((*keys, *sorted(flat)))}


def _summary(flat: dict) -> dict:
    """What frames need of a summary, in its record's form."""
    plan = _part(flat, "plan/before/")
    return {
        "outcome": flat["outcome"],
        "epoch": whole_number("epoch", flat.get("epoch", 0)),
        "before": _part(flat, "before/"),
        "after": _part(flat, "after/"),
        "plan": {
            "before": {conv: plan[conv] for conv in flat.get("plan/convs", ()) if conv in plan}
        },
        "samples": _part(flat, "samples/"),
        "versions": _part(flat, "versions/"),
        **{key: flat.get(key, "") for key in ("data", "commit", "processor", "device")},
        "threads": flat.get("threads"),
        "seconds": flat.get("seconds", math.nan),
    }


def _part(flat: dict, prefix: str) -> dict:
    return {
        key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)
    }
