"""Sends finished runs and the figures of a report to a W&B project.

It skips runs that are already uploaded and finishes partial uploads.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.config import RunConfig
from benchmark.errors import UserError, require
from benchmark.files import read_json, short_digest
from benchmark.record import Record, run_folders
from benchmark.tracking.api import THREADS, address, asking, bar, connect, listed, told
from benchmark.tracking.rows import LINES, sent_files, sent_summary
from benchmark.tracking.tracker import WandbTracker, has_files, lean_settings, replay

if TYPE_CHECKING:
    from wandb.apis.public import Run as WandbRun

FAILED = 1
GIVE_UP = 2 * THREADS
"""Failures in a row after which the remaining runs are not tried."""
FORBIDDEN = "/\\#?%:"
"""Characters that W&B does not allow in the name of a project."""
DELETED = "previously created and deleted"
"""What W&B says of the id of a run that was deleted, which it does not take again."""
PUSHED, THERE = "pushed", "already there"
Tasks = dict[str, Callable[[], str]]
"""{id of a W&B run: what uploads it} Returns `PUSHED` or `THERE`; raises what wandb raises."""


@dataclass(frozen=True)
class Target:
    """Where runs go."""

    project: str
    entity: str
    files: Path
    """Folder for wandb's own files."""
    suffix: str = ""
    """End of the ids of the runs."""

    def id(self, config: RunConfig) -> str:
        """W&B's id of a run."""
        return f"{config.run_id}-{self.suffix}" if self.suffix else config.run_id


def push(
    runs: Path,
    project: str,
    entity: str | None = None,
    figures: Path | None = None,
    suffix: str = "",
) -> int:
    """Upload all finished runs, each once, and the figures of a report as one more run.

    suffix: W&B's id of a run becomes <run_id>-<suffix>, where an id was deleted on the server.
    Returns the exit status, 1 if some failed. Raises `UserError` if there is no finished run, no
    such report, no server or no key.
    """
    allowed = bool(project) and not set(project) & set(FORBIDDEN)
    require(allowed, "project", project, f"a name without {FORBIDDEN}")
    good = bool(re.fullmatch(r"\w{0,20}", suffix, re.ASCII))
    require(good, "suffix", suffix, "up to 20 letters, digits or _")
    finished = [record for record in map(Record, run_folders(runs)) if record.finished]
    if not finished:
        raise UserError(f"runs folder {runs} has no finished run")
    images = _images(figures) if figures else []
    with asking():
        api = connect()
        entity = entity or api.default_entity
        place = f"{entity}/{project}"
        try:
            there = listed(api, place)
        except ValueError:  # no such project yet: the first run makes it
            there = []
    with tempfile.TemporaryDirectory(prefix="flowprune-push-", ignore_cleanup_errors=True) as files:
        target = Target(project, entity, Path(files), suffix)
        tasks = {r.folder.name: partial(_push_run, r, there, target) for r in finished}
        if images:
            tasks |= _figures_task(figures, images, there, target)
        status = _work(tasks, place)
    print(f"W&B: {address(entity, project)}")
    return status


# ------------------------------------------------------------------- one run


def _push_run(record: Record, there: Sequence[WandbRun], target: Target) -> str:
    """Replay a record, unless one of the W&B runs with its run_id has all of it.

    A partial upload is resumed if its rows have no gap, else replaced. Runs of agents have other
    W&B ids, and are never written to.
    """
    config = record.checked_config().canonical()
    record.history()  # a broken record fails before W&B has a run of it
    summary, files = record.summary(), sent_files(record)
    same = [run for run in there if config.run_id in (run.id, run.config.get("run_id"))]
    if any(_is_whole(run, summary, files) for run in same):
        return THERE
    id = target.id(config)
    own = next((_epochs(run) for run in same if run.id == id), set())
    resume = own == set(range(len(own)))
    try:
        tracker = WandbTracker(
            config, target.files, "online", resume,
            id=id, project=target.project, entity=target.entity,
        )  # fmt: skip
    except Exception as error:
        if DELETED not in str(error):
            raise
        raise UserError(_deleted(id, target.suffix)) from None
    replay(record, tracker)
    return PUSHED


def _deleted(id: str, suffix: str) -> str:
    number = int(suffix) + 1 if suffix.isdecimal() else 2
    return (
        f"W&B run {id} was deleted on the server, which does not take its id again: push with "
        f"--suffix {number} gives a new one"
    )


def _is_whole(run: WandbRun, summary: dict, files: Mapping[str, bytes]) -> bool:
    sent = sent_summary(summary, files)
    told = ("outcome", *(key for key in sent if key.startswith(LINES)))
    ended = run.state == "finished" and all(run.summary_metrics.get(k) == sent[k] for k in told)
    return ended and has_files(run, files) and _epochs(run) >= set(range(summary["epoch"] + 1))


def _epochs(run: WandbRun) -> set[int]:
    """The epochs that W&B has rows of."""
    return {int(row["epoch"]) for row in run.scan_history(use_cache=False) if "epoch" in row}


# ------------------------------------------------------------------- figures


def _images(report: Path) -> list[Path]:
    images = sorted((report / "figures").glob("*.png"))
    if not images:
        raise UserError(
            f"report folder {report} has no figures/*.png: `python -m analysis` makes one"
        )
    return images


def _figures_task(
    report: Path, images: Sequence[Path], there: Sequence[WandbRun], target: Target
) -> Tasks:
    """One W&B run per state of a report, with a digest of it as its id."""
    claims = report / "claims.json"
    try:
        verdicts = {claim["id"]: claim["verdict"] for claim in read_json(claims).get("claims")}
    except (KeyError, TypeError):
        raise UserError(
            f"file {claims} must be a report's, with claims that have id and verdict"
        ) from None
    content = b"".join(path.read_bytes() for path in [claims, *images])
    name = f"report-{short_digest(content)}"
    known = any(run.id == name and run.state == "finished" for run in there)
    return {name: lambda: THERE if known else _push_figures(name, verdicts, images, target)}


def _push_figures(
    name: str, verdicts: dict[str, str], images: Sequence[Path], target: Target
) -> str:
    import wandb

    run = wandb.init(
        project=target.project,
        entity=target.entity,
        id=name,
        name=name.replace("-", " "),
        job_type="report",
        mode="online",
        dir=target.files,
        reinit="create_new",
        settings=lean_settings(),
    )
    run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in images})
    run.summary.update({f"claims/{claim}": verdict for claim, verdict in verdicts.items()})
    run.finish()
    return PUSHED


# ------------------------------------------------------------------- all of them


def _work(tasks: Tasks, place: str) -> int:
    """Execute the tasks, with a progress bar and a line for each that failed; returns the exit
    status."""
    counts = Counter({PUSHED: 0, THERE: 0, "failed": 0})
    with bar("pushing runs") as progress:
        for name, outcome in progress.track(outcomes(tasks), total=len(tasks)):
            if isinstance(outcome, Exception):
                line = f"failed: {name}: {told(outcome)}"
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
                outcome = "failed"
            counts[outcome] += 1
    numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{len(tasks)} runs for W&B project {place}: {numbers}")
    return FAILED if counts["failed"] else 0


def outcomes(tasks: Tasks) -> Iterator[tuple[str, str | Exception]]:
    """Execute tasks in threads; yields the name of each that ends, with what it returned or
    raised."""
    hopeless = threading.Event()

    def attempt(task: Callable[[], str]) -> str:
        if hopeless.is_set():
            raise RuntimeError(f"not tried after {GIVE_UP} failures in a row")
        return task()

    with ThreadPoolExecutor(THREADS) as pool:
        futures = {pool.submit(attempt, task): name for name, task in tasks.items()}
        in_a_row = 0
        try:
            for future in as_completed(futures):
                error = future.exception()
                in_a_row = in_a_row + 1 if error else 0
                if in_a_row == GIVE_UP:
                    hopeless.set()
                yield futures[future], error or future.result()
        except BaseException:  # interrupted: uploads that began end, the others are not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
