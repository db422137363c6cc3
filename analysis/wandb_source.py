"""Runs of a W&B project, pulled from its server or taken from the copies of an earlier pull."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.mirror import Mirror, runs
from analysis.pull import PREFIX, Pull
from analysis.pull_cache import PullCache
from analysis.sources import Run
from benchmark.errors import UserError

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public import Run as WandbRun

PAGE = 100
"""Runs per query."""
THREADS = 8
CONNECT_SECONDS = 15
"""Longest time to reach the server at all."""
PATIENCE_SECONDS = 90
"""Longest time without an answer. Until then wandb's client tries again, with growing pauses, what failed with a lost
connection or a status of 429 or 5xx."""
LATER = "what was pulled is kept for the next time, and --offline does with it alone"


def pulled_runs(source: str, pull: Pull) -> list[Run]:
    """The runs of `wandb:ENTITY/PROJECT`, one per run_id. Runs that are none of ours are left out.

    Raises `UserError`: no such project, no key, no server, no run that meets the filter, no copy when offline.
    """
    place, conditions = _place(source), pull.conditions()
    cache = PullCache(pull.folder(), _server(), *place.split("/"))
    mirrors = cache.pulled(conditions) if pull.offline else _fetch(place, conditions, cache)
    ours, broken = runs(mirrors, place)
    if not ours:
        met = f" that meets the filter {json.dumps(conditions)}" if conditions else ""
        raise UserError(f"W&B project {place} has no run of this suite{met}")
    if broken:
        print(
            f"warning: {len(broken)} runs of W&B project {place} ended, but lack rows, and count as unfinished; "
            f"`python -m sweeps push` completes them: {' '.join(broken)}",
            file=sys.stderr,
        )
    return ours


def _place(source: str) -> str:
    place = source.removeprefix(PREFIX)
    if place.count("/") != 1 or not all(place.split("/")):
        raise UserError(f"source must be a runs folder or {PREFIX}ENTITY/PROJECT, got {source!r}")
    return place


def _server() -> str:
    """The address of the W&B server, without asking it."""
    from wandb.sdk import wandb_setup  # here, because importing it takes a second

    return os.environ.get("WANDB_BASE_URL") or wandb_setup.singleton().settings.base_url


def _fetch(place: str, conditions: dict, cache: PullCache) -> list[Mirror]:
    """All runs that meet the conditions, with the history of those that ended; copies are kept."""
    with _wandb_errors():
        found = list(_api().runs(place, filters=conditions, lazy=False, per_page=PAGE))
    with Progress(
        TextColumn("pulling runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as progress:  # fmt: skip
        mirrors = list(progress.track(_in_threads(found, cache), total=len(found)))
    cache.keep_pull(conditions, [mirror.id for mirror in mirrors])
    return mirrors


def _in_threads(found: Sequence[WandbRun], cache: PullCache) -> Iterator[Mirror]:
    """The runs with their histories, in the order in which they arrive."""
    import wandb

    pool = ThreadPoolExecutor(THREADS)
    try:
        pending: set[Future[Mirror]] = {pool.submit(_mirror, run, cache) for run in found}
        while pending:
            done, pending = wait(pending, timeout=PATIENCE_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                raise UserError(f"W&B server {_server()}: no run arrived within {PATIENCE_SECONDS} s; {LATER}")
            yield from (future.result() for future in done)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        wandb.teardown()  # it would go on trying for hours, and the process wait for its threads
        raise
    pool.shutdown()


def _mirror(run: WandbRun, cache: PullCache) -> Mirror:
    attributes = run._attrs  # the run's own properties ask the server again, or lack the number of rows
    mirror = Mirror(
        run.id, run.state, attributes["heartbeatAt"], attributes["historyLineCount"], dict(run.config),
        dict(attributes["summaryMetrics"]),
    )  # fmt: skip
    if mirror.run_id and mirror.ended:
        if copy := cache.completed(mirror):
            return copy
        with _wandb_errors():
            mirror = replace(mirror, history=list(run.scan_history(use_cache=False)))
    cache.keep(mirror)
    return mirror


def _api() -> wandb.Api:
    import wandb

    wandb.Api(timeout=CONNECT_SECONDS)  # soon says whether server and key are good
    return wandb.Api(timeout=PATIENCE_SECONDS)


@contextmanager
def _wandb_errors() -> Iterator[None]:
    """Say in one line what wandb raises: errors of several unrelated classes."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"W&B server {_server()}: {reason}; {LATER}") from error
