"""Queries to a W&B server: the connection, the runs of a project, and errors in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from benchmark.errors import UserError, first_line

if TYPE_CHECKING:
    import wandb
    from rich.progress import Progress
    from wandb.apis.public import Run

PAGE = 100
"""Runs per query."""
CONNECT_SECONDS = 15
"""Longest time to reach the server at all."""
PATIENCE_SECONDS = 90
"""Longest time without an answer. Until then wandb's client repeats a query that failed with a lost
connection or a status of 429 or 5xx, after growing pauses."""
TEARDOWN_SECONDS = 5
"""Longest wait for the client's service process to end."""
THREADS = 8
"""Runs that are read or written at the same time."""


def bar(text: str) -> Progress:
    """A progress bar on stderr, which counts runs; none where nobody looks at a terminal."""
    from rich.console import Console  # here, because runs need no bar
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def server() -> str:
    """The address of the W&B server. Sends no query."""
    from wandb.sdk import wandb_setup  # here, because importing it takes a second

    return os.environ.get("WANDB_BASE_URL") or wandb_setup.singleton().settings.base_url


def address(entity: str, project: str) -> str:
    """The address of a project's page. Sends no query."""
    from wandb.sdk import wandb_setup  # here, because importing it takes a second

    return f"{wandb_setup.singleton().settings.app_url}/{entity}/{project}"


def connect() -> wandb.Api:
    """The server's API. Raises what wandb raises, after `CONNECT_SECONDS` at most, if the server or
    the key does not work."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    wandb.Api(timeout=CONNECT_SECONDS)
    return wandb.Api(timeout=PATIENCE_SECONDS)


def listed(api: wandb.Api, place: str, conditions: Mapping = {}) -> list[Run]:
    """The runs of `place` (ENTITY/PROJECT) that meet a filter, with configuration and summary.

    One query per page. Raises ValueError if there is no such project.
    """
    return list(api.runs(place, filters=dict(conditions), lazy=False, per_page=PAGE))


def stop_asking() -> None:
    """End the client's service process, which would repeat for hours what the server does not
    answer.

    Sometimes it does not end during a request; then it ends with this process.
    """
    import wandb

    ending = Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(TEARDOWN_SECONDS)


@contextmanager
def asking(hint: str = "") -> Iterator[None]:
    """Turn wandb's errors, which have no common class, into a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"W&B server {server()}: {told(error)}{hint}") from error


def told(error: BaseException) -> str:
    """The first line of an error of wandb, or its kind if it says nothing."""
    line = first_line(error).removesuffix(".")
    return type(error).__name__ if line == "<no message>" else line
