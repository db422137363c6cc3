"""Mirroring a run to Weights & Biases. The files are the record: a tracker neither changes a run
nor stops it."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmark.config import RunConfig
from benchmark.errors import UserError, first_line
from benchmark.provenance import commit
from benchmark.record import Record
from benchmark.tracking.rows import sent_config, sent_files, sent_rows, sent_summary

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public import Run as WandbRun

MODES = ("offline", "online", "disabled")
PROJECT = "flowprune"
"""The project of runs, unless `WANDB_PROJECT` names another. wandb itself reads `WANDB_ENTITY`."""

Artifacts = Mapping[str, Sequence[Path]]
"""{type of an artifact of a run, `model` or `scores`: its files}; its name is `<type>-<run_id>`."""
NO_ARTIFACTS: Artifacts = MappingProxyType({})

INIT_SECONDS = 20.0
FINISH_SECONDS = 20.0
"""Time that W&B gets to accept a run, and to receive its last rows."""
ARTIFACT_SECONDS = 60
"""Time that W&B gets to receive an artifact."""
CONFIRM_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each check of the rows that arrived: the server shows new rows after a moment."""
ABANDON_SECONDS = 8.0
"""Time that a process which is asked to stop waits for W&B."""
PAUSE_SECONDS = 300.0
"""After a failure, runs that begin in the same process within so many seconds do not use W&B."""
SERVICE_GONE = (
    "HandleAbandonedError", "ConnectionResetError", "BrokenPipeError", "MailboxClosedError",
)  # fmt: skip
"""Errors that say that wandb's service process has died."""
TERMINATED = 128 + signal.SIGTERM


def under_agent() -> bool:
    """Whether `wandb agent` started this process; it sets the id and project of the W&B run."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def default_mode() -> str:
    """`WANDB_MODE` if it is set, else online under `wandb agent` and offline elsewhere."""
    return os.environ.get("WANDB_MODE") or ("online" if under_agent() else "offline")


def job_type(config: RunConfig) -> str:
    """W&B's type of a run: dense, probes (dense with cut probes) or pruned."""
    if config.measure != "none":
        return "pruned"
    return "probes" if config.probed else "dense"


class NoTracker:
    """`--wandb disabled`: nothing is sent, and wandb is not imported."""

    def log(self, row: dict) -> None:
        """Ignore an epoch."""

    def finish(
        self, summary: dict, files: Mapping[str, bytes], artifacts: Artifacts = NO_ARTIFACTS
    ) -> None:
        """Ignore the end."""

    def done(self) -> bool:
        """There is nothing to wait for."""
        return True

    def abandon(self, status: int) -> None:
        """Ignore an interruption."""


class WandbTracker:
    """One W&B run per run; its step is the epoch. Raises what wandb raises, and `RuntimeError`
    if rows or files did not arrive.

    With `resume`, rows that the server has are not sent again; without, the run with this id is
    replaced.
    """

    def __init__(
        self,
        config: RunConfig,
        runs: Path,
        mode: str,
        resume: bool = False,
        *,
        full: bool = False,
        id: str | None = None,
        project: str | None = None,
        entity: str | None = None,
    ) -> None:
        import wandb  # here, because importing it takes a second

        self.online = mode == "online"
        if mode == "offline":  # all rows are written again: remove an interrupted process's file
            for stale in (runs / "wandb").glob(f"offline-run-*-{config.run_id}"):
                shutil.rmtree(stale)
        runs.mkdir(parents=True, exist_ok=True)
        place = {
            "id": id or config.run_id,
            "project": project or os.environ.get("WANDB_PROJECT", PROJECT),
            "entity": entity,
        }
        components = [config.measure, config.arch, config.dataset.partition(":")[0]]
        _set_up()
        self.run = wandb.init(
            **({} if under_agent() else place),
            name=config.label,
            group=config.label.rpartition(" ")[0],
            job_type=job_type(config),
            tags=[*components, f"seed-{config.seed}"],
            config=sent_config(config) | ({"commit": commit()} if full else {}),
            dir=runs,
            mode=mode,
            resume="allow" if resume and self.online else None,
            reinit="create_new",
            settings=lean_settings(full),
        )
        self.run.define_metric("*", step_metric="epoch")

    def log(self, row: dict) -> None:
        """Log one of `rows.sent_rows`. They come in order, from epoch 0 on."""
        if row["epoch"] >= self.run.starting_step:
            self.run.log(row)

    def finish(
        self, summary: dict, files: Mapping[str, bytes], artifacts: Artifacts = NO_ARTIFACTS
    ) -> None:
        """Write summary, files {name: content} and artifacts, close the run, and check that rows
        and files have arrived."""
        self.run.summary.update(sent_summary(summary, files))
        for name, content in files.items():
            path = Path(self.run.dir, name)
            path.write_bytes(content)  # a file elsewhere would be linked to, not copied
            self.run.save(path, base_path=self.run.dir, policy="now")
        try:
            for kind, paths in artifacts.items():
                self._send(kind, f"{kind}-{summary['run_id']}", paths)
        finally:
            self.run.finish()
        if self.online:
            self._confirm(summary["epoch"] + 1, files)

    def _send(self, kind: str, name: str, paths: Sequence[Path]) -> None:
        """Log an artifact.

        W&B also gets the paths of the files, which online therefore are those of temporary copies.
        """
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        with tempfile.TemporaryDirectory(prefix="flowprune-") as folder:
            for path in paths:
                sent = shutil.copy(path, folder) if self.online else path
                artifact.add_file(str(sent), name=path.name, skip_cache=True, policy="immutable")
            logged = self.run.log_artifact(artifact)
            if self.online:  # raises if W&B does not take it; nothing else does
                logged.wait(ARTIFACT_SECONDS)

    def abandon(self, status: int) -> None:
        """Close the run with the exit status of an interrupted process; after SIGTERM a sweep gives
        it to another agent."""
        if status == TERMINATED:
            self.run.mark_preempting()
        self.run.finish(exit_code=status)

    def _confirm(self, rows: int, files: Mapping[str, bytes]) -> None:
        """Ask the server, because wandb raises nothing when it drops rows or files."""
        import wandb

        place = f"{self.run.entity}/{self.run.project}/{self.run.id}"
        for pause in CONFIRM_PAUSES:
            time.sleep(pause)
            run = wandb.Api(timeout=int(FINISH_SECONDS)).run(place)
            arrived, whole = run.lastHistoryStep + 1, has_files(run, files)
            if arrived >= rows and whole:
                return
        missing = "" if whole else f", but not all of {', '.join(files)}"
        raise RuntimeError(f"{arrived} of {rows} rows arrived{missing}")


def lean_settings(full: bool = False) -> wandb.Settings:
    """Settings of every W&B run: they send no host name, arguments, paths, code, packages or
    output.

    full: also send the load of the machine (GPUs, CPU, memory).
    """
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=not full,
        x_save_requirements=False,
        x_transaction_log_flush_interval=1.0,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )


def has_files(run: WandbRun, files: Mapping[str, bytes]) -> bool:
    """Whether a run on the server has these files {name: content}, by their sizes."""
    sizes = {file.name: file.size for file in run.files(list(files))} if files else {}
    return all(sizes.get(name) == len(content) for name, content in files.items())


@cache
def require_key() -> None:
    """Raise `UserError` unless W&B has an API key, from the environment or from `wandb login`."""
    import wandb

    _set_up()
    if not wandb.api.api_key:
        raise UserError(
            "wandb online needs an API key: `wandb login`, or set WANDB_API_KEY, "
            "or use --wandb offline"
        )


def _set_up() -> None:
    """Start wandb's service with a temporary file as its stderr.

    Else the service would print there where it found the API key, and the stacks of its threads
    when it fails. What this process itself prints meanwhile is passed on.
    """
    import wandb

    with tempfile.TemporaryFile() as aside:
        stderr = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            wandb.setup(wandb.Settings(silent=True))
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            aside.seek(0)
            if printed := aside.read():
                os.write(2, printed)


class DetachedTracker:
    """A tracker in a thread of its own: a run neither waits for W&B nor fails with it.

    When W&B fails, the user gets one warning that says how to send the record later.
    """

    paused_until = -math.inf
    """Time (monotonic) until which new runs do not use W&B."""

    def __init__(self, connect: Callable[[], WandbTracker], runs: Path) -> None:
        self._runs = runs
        self._calls: SimpleQueue[Callable[[WandbTracker], None] | None] = SimpleQueue()
        self._failed = False
        self._longest = self._until = 0.0
        self._thread = threading.Thread(target=self._work, args=(connect,), daemon=True)
        self._thread.start()

    def log(self, row: dict) -> None:
        """Log one epoch."""
        self._calls.put(lambda tracker: tracker.log(row))

    def finish(
        self, summary: dict, files: Mapping[str, bytes], artifacts: Artifacts = NO_ARTIFACTS
    ) -> None:
        """Write summary, files and artifacts, and close the run; returns before that is `done`."""
        longest = 2 * (INIT_SECONDS + FINISH_SECONDS) + ARTIFACT_SECONDS * len(artifacts)
        self._end(lambda tracker: tracker.finish(summary, files, artifacts), longest)

    def done(self) -> bool:
        """Whether W&B has been told the end, or does not answer."""
        if self._thread.is_alive() and time.monotonic() < self._until:
            return False
        if self._thread.is_alive():
            self._fail(TimeoutError(f"no answer within {self._longest:g} s"))
        return True

    def abandon(self, status: int) -> None:
        """Close the run with the exit status of an interrupted process."""
        self._end(lambda tracker: tracker.abandon(status), ABANDON_SECONDS)
        self._thread.join(ABANDON_SECONDS)
        self.done()

    def _end(self, call: Callable[[WandbTracker], None], seconds: float) -> None:
        self._calls.put(call)
        self._calls.put(None)
        self._longest, self._until = seconds, time.monotonic() + seconds

    def _work(self, connect: Callable[[], WandbTracker]) -> None:
        try:
            tracker = connect()
            if tracker.online and parent_process() is None:  # a grid's workers would print many
                print(f"W&B: {tracker.run.url}")
            while call := self._calls.get():
                call(tracker)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failed:
            return
        self._failed = True
        DetachedTracker.paused_until = time.monotonic() + PAUSE_SECONDS
        if type(error).__name__ in SERVICE_GONE:
            import wandb

            # wandb must forget the dead service, or it fails again when the process ends
            with contextlib.suppress(Exception):
                wandb.teardown()
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        print(
            f"warning: W&B failed ({first_line(error)}); the run continues without it. Its record "
            f"is complete; send it later: python -m sweeps push {self._runs} --project {project}",
            file=sys.stderr,
        )


Tracker = NoTracker | DetachedTracker


@contextmanager
def tracked(
    config: RunConfig, runs: Path, mode: str, resume: bool, full: bool
) -> Iterator[Tracker]:
    """A tracker for a block that calls its `finish`; if the block is interrupted, W&B gets an exit
    status. mode: offline, online or disabled."""
    tracker: Tracker = NoTracker()
    if mode != "disabled" and time.monotonic() >= DetachedTracker.paused_until:
        connect = partial(WandbTracker, config, runs, mode, resume, full=full)
        tracker = DetachedTracker(connect, runs)
    try:
        yield tracker
    except BaseException as end:
        status = end.code if isinstance(end, SystemExit) else None
        tracker.abandon(status if isinstance(status, int) else 1)
        raise


def replay(
    record: Record, tracker: Tracker | WandbTracker, artifacts: Artifacts = NO_ARTIFACTS
) -> None:
    """Send a finished record to a tracker, as if the run took place now. A `DetachedTracker` has
    then to be waited for."""
    for row in sent_rows(record.history(), record.cuts()):
        tracker.log(row)
    tracker.finish(record.summary(), sent_files(record), artifacts)
