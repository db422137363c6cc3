"""Runs of a W&B project, pulled from its server or taken from the copies of an earlier pull."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from analysis.runs.cache import PullCache
from analysis.runs.frames import Run
from analysis.runs.pull import PREFIX, Pull
from analysis.runs.wandb_run import Mirror, runs
from benchmark.errors import UserError
from benchmark.tracking.api import (
    PATIENCE_SECONDS,
    THREADS,
    asking,
    bar,
    connect,
    listed,
    server,
    stop_asking,
)
from benchmark.tracking.rows import due_files

if TYPE_CHECKING:
    from wandb.apis.public import Run as WandbRun

GRACE_SECONDS = 2
"""How long a failed pull waits for runs that are being fetched."""
LATER = "; the runs pulled so far are kept for the next time, and --offline uses them alone"


def pulled_runs(source: str, pull: Pull) -> tuple[list[Run], list[str]]:
    """The runs of `wandb:ENTITY/PROJECT`, one per run_id, and why others are left out.

    Raises `UserError`: no such project, no key, no server, no run that meets the filter, no copy
    when offline.
    """
    place, conditions = _place(source), pull.conditions()
    cache = PullCache(pull.folder(), server(), *place.split("/"))
    mirrors = cache.pulled(conditions) if pull.offline else _fetch(place, conditions, cache)
    ours, broken, set_aside = runs(mirrors, place)
    if not ours and not set_aside:
        met = f" that meets the filter {json.dumps(conditions)}" if conditions else ""
        raise UserError(f"W&B project {place} has no run of this suite{met}")
    if broken:
        print(
            (
                f"warning: {len(broken)} runs of W&B project {place} ended, but lack rows, and "
                f"count as unfinished; `python -m sweeps push` completes them: {' '.join(broken)}"
            ),
            file=sys.stderr,
        )
    return ours, set_aside


def _place(source: str) -> str:
    place = source.removeprefix(PREFIX)
    if place.count("/") != 1 or not all(place.split("/")):
        raise UserError(f"source must be a runs folder or {PREFIX}ENTITY/PROJECT, got {source!r}")
    return place


def _fetch(place: str, conditions: dict, cache: PullCache) -> list[Mirror]:
    """All runs that meet the conditions, with the history of those that ended; copies are kept."""
    with asking(LATER):
        api = connect()
        try:
            found = listed(api, place, conditions)
        except ValueError:
            raise UserError(f"W&B project {place} does not exist, or is not yours to see") from None
    with bar("pulling runs") as progress:
        mirrors: list[Mirror] = []
        try:
            for mirror in progress.track(_in_threads(found, cache), total=len(found)):
                mirrors.append(mirror)
        except BaseException:
            cache.add_to_pull(conditions, [mirror.id for mirror in mirrors])
            raise
    cache.keep_pull(conditions, [mirror.id for mirror in mirrors])
    return mirrors


def _in_threads(found: Sequence[WandbRun], cache: PullCache) -> Iterator[Mirror]:
    """The runs with their histories, in the order in which they arrive."""
    pool = ThreadPoolExecutor(THREADS)
    pending: set[Future[Mirror]] = set()
    try:
        pending = {pool.submit(pulled_run, run, cache) for run in found}
        while pending:
            done, pending = wait(pending, timeout=PATIENCE_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                raise UserError(
                    f"W&B server {server()}: no run arrived within {PATIENCE_SECONDS} s{LATER}"
                )
            arrived_first = sorted(done, key=lambda future: future.exception() is not None)
            yield from (future.result() for future in arrived_first)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        running = [future for future in pending if not future.cancelled()]
        if wait(running, timeout=GRACE_SECONDS).not_done:
            stop_asking()
        raise
    pool.shutdown()


def pulled_run(run: WandbRun, cache: PullCache) -> Mirror:
    """One run, with its history and files if it ended; from its copy if that is up to date."""
    known = (run.id, run.state, run.heartbeat_at, run.history_line_count)
    mirror = Mirror(*known, config=dict(run.config), summary=dict(run.summary_metrics))
    if mirror.run_id and mirror.ended:
        if copy := cache.completed(mirror):
            return copy
        with asking(LATER):
            history = list(run.scan_history(use_cache=False))
            mirror = replace(mirror, history=history, files=_files(run, mirror.summary))
    cache.keep(mirror)
    return mirror


def _files(run: WandbRun, summary: dict) -> dict[str, str]:
    """{name: content} of the files that the summary names, but for those that have not arrived."""
    found, names = {}, due_files(summary)
    with TemporaryDirectory(prefix="flowprune-pull-") as folder:
        for file in run.files(names) if names else ():
            if file.size:
                file.download(folder).close()
                found[file.name] = Path(folder, file.name).read_text("utf-8")
    return found
