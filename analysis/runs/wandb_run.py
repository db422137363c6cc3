"""Runs as W&B has them, and which of them to use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.runs.check import check_values, gap
from analysis.runs.frames import Run
from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import UserError, shortened
from benchmark.outside import NOUNS
from benchmark.record import check_rules
from benchmark.tracking.rows import ROWS, lacks_rows, part, record

ODD = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""What values that no run sends raise."""
RUN_ID = re.compile(r"[0-9a-f]{12}-s\d{1,20}")


@dataclass(frozen=True)
class Mirror:
    """One W&B run, as its server describes it."""

    id: str
    """W&B's id: the run_id, except for runs of a `wandb agent`."""
    state: str
    updated: str
    """When its process last reported."""
    lines: int
    """Rows of its history, by the server's count."""
    config: dict
    summary: dict
    history: Sequence[dict] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """{name: content} of its files."""

    @property
    def run_id(self) -> str | None:
        """The run_id in its configuration; None if there is none, or it has not the form of one."""
        name = self.config.get("run_id")
        return name if isinstance(name, str) and RUN_ID.fullmatch(name) else None

    @property
    def ended(self) -> bool:
        """Whether its process wrote a summary."""
        return "outcome" in self.summary


def runs(mirrors: Iterable[Mirror], place: str) -> tuple[list[Run], list[str], list[str]]:
    """One run per run_id, sorted by it; the run_ids of runs that ended but are incomplete; and a
    reason for each W&B run that is left out.

    If several W&B runs share a run_id (of agents, requeued or crashed runs), the complete one that
    was updated last is used. If none is complete, the run is unfinished. place: ENTITY/PROJECT.
    """
    known: dict[str, list[Mirror]] = {}
    found, broken, set_aside = [], [], []
    for mirror in mirrors:
        if mirror.run_id:
            known.setdefault(mirror.run_id, []).append(mirror)
        elif mirror.config.get("run_id") is not None:
            name = shortened(repr(mirror.config["run_id"]))
            where = f"W&B run {place}/{shortened(mirror.id)}"
            set_aside.append(f"{where} has run_id {name}, which is none of this suite")
    for run_id, same in sorted(known.items()):
        same.sort(
            key=lambda mirror: (mirror.state == "finished", mirror.updated, mirror.id), reverse=True
        )
        configs, read, ended = [], [], False
        for mirror in same:  # a broken one does not hide a complete one
            try:
                config, run = _parsed(mirror, place)
            except UserError as error:
                set_aside.append(str(error))
            else:
                configs.append(config)
                read += [run] if run else []
                ended = ended or mirror.ended
        if not configs:
            continue
        whole = next((run for run in read if gap(run) is None), None)
        if ended and not whole:
            broken.append(run_id)
        found.append(whole or Run(configs[0], (), (), None))
    return found, broken, set_aside


def _named(mirror: Mirror) -> dict[str, object]:
    """The names of components from outside: a sweep's configuration has the paths of their files,
    the summary their names."""
    names = part(mirror.summary, "components/")
    return {field: names[field] for field in NOUNS.values() if field in names}


def _parsed(mirror: Mirror, place: str) -> tuple[RunConfig, Run | None]:
    """The configuration of a W&B run, and its record if it ended and all files are there. Raises
    `UserError` for values that no run sends.

    Other keys of the configuration (a sweep's arguments of the command) are ignored.
    """
    where = f"W&B run {place}/{shortened(mirror.id)}"
    given, run = mirror.config | _named(mirror), None
    check_rules(where, given.get("rules", 1), f"leave it out with --filter rules={RULES}")
    try:
        config = RunConfig(**{name: given[name] for name in DEFAULTS if name in given}).canonical()
        if mirror.ended and not lacks_rows(mirror.summary, mirror.files):
            run = Run(config, *record(mirror.history, mirror.files))
    except (*ODD, RecursionError) as error:  # the latter for a file that is nested too deeply
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__} "
        raise UserError(f"{where}: {kind}{shortened(str(error))}") from None
    if config.run_id != mirror.run_id:
        raise UserError(
            f"{where} has run_id {mirror.run_id}, but the configuration of {config.run_id} "
            f"({config.label}): delete it, or leave it out with --filter"
        )
    if run:
        rows = {name: f"{where}, {name}.jsonl, line" for name in ROWS}
        check_values(
            run, f"{where}, row", rows["cuts"], f"{where}, summary.json",
            probes=rows["probes"], ranks=rows["probe_ranks"],
        )  # fmt: skip
    return config, run
