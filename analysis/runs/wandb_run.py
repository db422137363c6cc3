"""Runs as W&B has them, and which of them to use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.runs.check import check_values, gap
from analysis.runs.frames import Run
from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import UserError, shortened
from benchmark.record import check_rules
from benchmark.tracking.rows import record

RUN_ID = re.compile(r"[0-9a-f]{12}-s\d{1,20}")


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
    """The record of a run that ended. Raises `UserError` for values that no run sends."""
    where = f"W&B run {place}/{shortened(mirror.id)}"
    try:
        run = Run(config, *record(mirror.history, mirror.summary))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__} "
        raise UserError(f"{where}: {kind}{shortened(str(error))}") from None
    check_values(run, f"{where}, row", f"{where}, cut", f"{where}, summary")
    return run


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
